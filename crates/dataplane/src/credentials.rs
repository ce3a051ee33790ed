//! This machine's certificate, as it is on disk now: it is renewed while targets, initiators and dead-men run.
//!
//! Invariant: the files are read on a thread of their own. A disk that hangs keeps the old certificate in use, and never
//! a dead-man from pausing guests.

use host::net::{ClientTls, ServerTls, TlsError, TlsFiles};
use std::cell::{Cell, RefCell};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::Duration;
use units::HostKey;

/// How long a new connection waits for the files; a healthy disk answers within milliseconds.
const READ_MAX: Duration = Duration::from_millis(200);

/// The newest usable certificate.
pub struct Credentials {
    files: RefCell<TlsFiles>,
    me: HostKey,
    loaded: RefCell<Loaded>,
    /// Files are being looked at.
    busy: Cell<bool>,
}

struct Loaded {
    stamp: Stamp,
    client: ClientTls,
    server: ServerTls,
}

/// What changes with a file: its inode, when it was changed, how long it is.
type Stamp = [Option<(u64, i64, i64, u64)>; 3];

impl Credentials {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(files: TlsFiles) -> Result<Rc<Self>, TlsError> {
        let me = files.host_key()?;
        let loaded = RefCell::new(read(&files, stamp(&files))?);
        Ok(Rc::new(Self { files: RefCell::new(files), me, loaded, busy: Cell::new(false) }))
    }

    /// Who this machine is.
    pub fn me(&self) -> HostKey {
        self.me
    }

    /// Other files are configured, and are as they should be.
    pub fn replace(&self, files: TlsFiles) -> Result<(), TlsError> {
        *self.loaded.borrow_mut() = read(&files, stamp(&files))?;
        *self.files.borrow_mut() = files;
        Ok(())
    }

    /// For a connection from here.
    pub async fn client(self: &Rc<Self>) -> ClientTls {
        self.look().await;
        self.loaded.borrow().client.clone()
    }

    /// For a connection to here.
    pub async fn server(self: &Rc<Self>) -> ServerTls {
        self.look().await;
        self.loaded.borrow().server.clone()
    }

    /// Reads the files if they changed, at most for [`READ_MAX`].
    async fn look(self: &Rc<Self>) {
        if self.busy.replace(true) {
            return;
        }
        let this = Rc::clone(self);
        let looking = tokio::task::spawn_local(async move {
            let (files, me, old) = (this.files.borrow().clone(), this.me, this.loaded.borrow().stamp);
            let looked = tokio::task::spawn_blocking(move || look_again(&files, me, old)).await;
            match looked {
                Ok(Ok(Some(loaded))) => {
                    tracing::info!("the certificate was read anew");
                    *this.loaded.borrow_mut() = loaded;
                }
                Ok(Ok(None)) | Err(_) => {}
                // A pair that is being renewed file by file; it is looked at again with the next connection.
                Ok(Err(why)) => tracing::warn!("the changed certificate is not used: {why}"),
            }
            this.busy.set(false);
        });
        let _ = tokio::time::timeout(READ_MAX, looking).await;
    }
}

fn look_again(files: &TlsFiles, me: HostKey, old: Stamp) -> Result<Option<Loaded>, String> {
    let new = stamp(files);
    if new == old {
        return Ok(None);
    }
    let key = files.host_key().map_err(|error| error.to_string())?;
    if key != me {
        return Err(format!("it is {key}'s, and this machine is {me}"));
    }
    read(files, new).map(Some).map_err(|error| error.to_string())
}

fn read(files: &TlsFiles, stamp: Stamp) -> Result<Loaded, TlsError> {
    Ok(Loaded { stamp, client: ClientTls::load(files)?, server: ServerTls::load(files)? })
}

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.certificate, &files.key, &files.ca].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
    })
}
