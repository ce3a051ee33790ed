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
    /// Whether it may be another key's one day.
    is_pinned: bool,
    loaded: RefCell<Loaded>,
    /// What cannot be used is complained of once, not with every connection.
    refused: Cell<Option<Stamp>>,
    /// Files are being looked at.
    busy: Cell<bool>,
}

struct Loaded {
    stamp: Stamp,
    client: ClientTls,
    server: ServerTls,
}

/// What a look at the files comes to.
enum Looked {
    Same,
    Usable(Box<Loaded>),
    Useless(Stamp, String),
}

/// What changes with a file: its inode, when it was changed, how long it is.
type Stamp = [Option<(u64, i64, i64, u64)>; 3];

impl Credentials {
    /// Reads the files for the first time. Whose they are later is for the other end to judge.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(files: TlsFiles) -> Result<Rc<Self>, TlsError> {
        Self::begin(files, false)
    }

    /// The same for a key that stays: a lease is granted to one, and held by it.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load_pinned(files: TlsFiles) -> Result<Rc<Self>, TlsError> {
        Self::begin(files, true)
    }

    fn begin(files: TlsFiles, is_pinned: bool) -> Result<Rc<Self>, TlsError> {
        let me = files.host_key()?;
        let loaded = RefCell::new(read(&files, stamp(&files))?);
        let (files, refused, busy) = (RefCell::new(files), Cell::new(None), Cell::new(false));
        Ok(Rc::new(Self { files, me, is_pinned, loaded, refused, busy }))
    }

    /// Who this machine is, by the files it began with.
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
            let (files, old) = (this.files.borrow().clone(), this.loaded.borrow().stamp);
            let pin = this.is_pinned.then_some(this.me);
            let looked = tokio::task::spawn_blocking(move || look_again(&files, pin, old)).await;
            match looked {
                Ok(Looked::Usable(loaded)) => {
                    tracing::info!("the certificate was read anew");
                    *this.loaded.borrow_mut() = *loaded;
                }
                // A pair that is being renewed file by file, say; it is looked at again with the next connection.
                Ok(Looked::Useless(stamp, why)) if this.refused.replace(Some(stamp)) != Some(stamp) => {
                    tracing::warn!("renewed TLS files cannot be used: {why}");
                }
                Ok(Looked::Same | Looked::Useless(..)) | Err(_) => {}
            }
            this.busy.set(false);
        });
        let _ = tokio::time::timeout(READ_MAX, looking).await;
    }
}

fn look_again(files: &TlsFiles, pin: Option<HostKey>, old: Stamp) -> Looked {
    let new = stamp(files);
    if new == old {
        return Looked::Same;
    }
    match files.host_key().and_then(|key| Ok((key, read(files, new)?))) {
        Ok((key, _)) if pin.is_some_and(|me| key != me) => Looked::Useless(new, format!("they are {key}'s")),
        Ok((_, loaded)) => Looked::Usable(Box::new(loaded)),
        Err(error) => Looked::Useless(new, error.to_string()),
    }
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
