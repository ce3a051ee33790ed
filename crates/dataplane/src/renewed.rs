//! TLS that follows its files: the node renews the certificate on disk every few weeks, and each new connection uses what
//! is there then. No restart, no signal.
//!
//! Invariant: files that cannot be used change nothing; the ones that could are used on, and the log says so once per
//! mistake. It does *not* touch connections that exist: a key is checked when a peer comes in.

use host::net::{TlsError, TlsFiles};
use std::cell::RefCell;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What was made of three files, and made again when they changed.
pub struct Renewed<T> {
    files: TlsFiles,
    make: fn(&TlsFiles) -> Result<T, TlsError>,
    state: RefCell<State<T>>,
}

struct State<T> {
    current: T,
    /// The files that `current` was made of.
    made_of: Stamps,
    /// What is wrong with those that are there now.
    complaint: String,
}

/// A file's identity and age: another file under its name has another number, one that was written or had its mode
/// changed has another time of change. `None`: it cannot be looked at.
type Stamp = Option<(u64, u64, i64, i64, u64)>;
type Stamps = [Stamp; 3];

impl<T: Clone> Renewed<T> {
    /// Makes it of the files that are there now.
    ///
    /// # Errors
    /// What is wrong with them: at a start there is nothing older to go on with.
    pub fn open(files: &TlsFiles, make: fn(&TlsFiles) -> Result<T, TlsError>) -> Result<Self, TlsError> {
        // Looked at before they are read: a change in between is seen the next time.
        let made_of = stamps(files);
        let state = State { current: make(files)?, made_of, complaint: String::new() };
        Ok(Self { files: files.clone(), make, state: RefCell::new(state) })
    }

    /// What a new connection uses. Files that could not be used are tried again each time: they may have been half
    /// written, and reading three small files is nothing beside a handshake.
    pub fn current(&self) -> T {
        let mut state = self.state.borrow_mut();
        let there = stamps(&self.files);
        if there == state.made_of {
            state.complaint.clear();
            return state.current.clone();
        }
        match (self.make)(&self.files) {
            Ok(made) => {
                *state = State { current: made, made_of: there, complaint: String::new() };
                tracing::info!(certificate = %self.files.certificate.display(), "TLS files were renewed and are in use");
            }
            Err(error) => {
                let complaint = error.to_string();
                if complaint != state.complaint {
                    tracing::error!("renewed TLS files cannot be used, the ones before are used on: {complaint}");
                    state.complaint = complaint;
                }
            }
        }
        state.current.clone()
    }
}

fn stamps(files: &TlsFiles) -> Stamps {
    [&files.certificate, &files.key, &files.ca].map(|path| stamp(path))
}

fn stamp(path: &Path) -> Stamp {
    let of = |meta: Metadata| (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.size());
    std::fs::metadata(path).ok().map(of)
}

#[cfg(test)]
mod test {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// Stands for TLS: the three texts, refused if one says so.
    fn make(files: &TlsFiles) -> Result<String, TlsError> {
        let read = |path: &PathBuf| {
            let path = path.clone();
            fs::read_to_string(&path).map_err(|source| TlsError::Read { what: "file", path, source })
        };
        let all = [read(&files.certificate)?, read(&files.key)?, read(&files.ca)?].join(" ");
        if all.contains("bad") {
            let path = files.certificate.clone();
            return Err(TlsError::BadFile { what: "certificate", path, problem: "it says so".into() });
        }
        Ok(all)
    }

    /// Goal: what is there is used, unless it cannot be; then what was there. Method: replace each file as a renewal
    /// does, by renaming; write in place; spoil, remove, put right.
    #[test]
    fn the_files_that_are_there_are_used() {
        let dir = std::env::temp_dir().join(format!("muskox-renewed-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let [certificate, key, ca] = ["node.crt", "node.key", "ca.crt"].map(|name| dir.join(name));
        let files = TlsFiles { certificate, key, ca };
        let put = |path: &Path, text: &str| {
            let new = path.with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, path).unwrap();
        };
        assert!(Renewed::open(&files, make).is_err(), "nothing is there yet");
        put(&files.certificate, "c1");
        put(&files.key, "k1");
        put(&files.ca, "a1");
        let renewed = Renewed::open(&files, make).unwrap();
        assert_eq!(renewed.current(), "c1 k1 a1");
        put(&files.certificate, "c2");
        assert_eq!(renewed.current(), "c2 k1 a1");
        put(&files.ca, "a2");
        assert_eq!(renewed.current(), "c2 k1 a2");
        fs::write(&files.key, "another").unwrap();
        assert_eq!(renewed.current(), "c2 another a2");
        put(&files.certificate, "bad");
        assert_eq!(renewed.current(), "c2 another a2", "what cannot be used changes nothing");
        assert!(renewed.state.borrow().complaint.contains("it says so"), "and is told");
        fs::remove_file(&files.key).unwrap();
        assert_eq!(renewed.current(), "c2 another a2");
        put(&files.certificate, "c3");
        put(&files.key, "k3");
        assert_eq!(renewed.current(), "c3 k3 a2");
        assert!(renewed.state.borrow().complaint.is_empty());
        fs::remove_dir_all(&dir).unwrap();
    }
}
