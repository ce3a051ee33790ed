//! TLS between the two QEMUs of a move, by a key of this one move. The destination's host makes it and tells the director, which
//! hands it to the source: over mTLS between machines, and never into the store. A QEMU may have been taken over by its
//! guest, so nothing else that opens anything is shown to one.
//!
//! Invariant: the key lies in a file, and its object in QEMU, only while that QEMU takes part in a move. A source's file is gone
//! when it has been read; a destination's stays, for GnuTLS reads it at each connection.

use super::Guest;
use super::start::COMMAND_MAX;
use crate::agent::place::Place;
use crate::secret::Secret;
use cluster::job::Guest as State;
use host::vm::Vm;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use units::VmName;
use wire::qmp::{MigrateSetParameters, Object, ObjectAdd, ObjectDel, TlsCredsPsk, TlsEnd};

/// For TLS 1.2; without them QEMU 7.2's server makes some anew each time, which takes a processor for a second. The group
/// ffdhe2048 of RFC 7919, appendix A.1, as PKCS #3 has it. Nothing secret.
const DH_PARAMETERS: &str = include_str!("dh-params.pem");
/// QEMU's name of the key's object.
const CREDS: &str = "tls0";
/// An earlier muskox made this object too, and gave `tls0` the host's own key.
const FORMER_AUTHZ: &str = "authz0";
/// The key's own name: there is one.
const KEY_NAME: &str = "move";
/// What QEMU looks for. Source: QEMU's `crypto/tlscredspsk.c` and `tlscreds.c`.
const KEY_FILE: &str = "keys.psk";
const DH_FILE: &str = "dh-params.pem";

impl Guest {
    /// Gives QEMU its end of a connection by `key`; what the migration has to be told of it.
    pub(super) async fn secure(&self, vm: &Vm, endpoint: TlsEnd, key: &Secret) -> Result<MigrateSetParameters, String> {
        let place = &self.shared.place;
        self.unsecure(vm).await;
        let folder = folder(place, &self.name);
        write(place, &self.name, &folder, key).map_err(|error| format!("'{}': {error}", folder.display()))?;
        let creds = TlsCredsPsk {
            id: CREDS.into(),
            dir: folder.to_str().ok_or("the folder has no plain name")?.to_owned(),
            endpoint,
            username: (endpoint == TlsEnd::Client).then(|| KEY_NAME.into()),
        };
        let added = vm.qmp().run(ObjectAdd(Object::TlsCredsPsk(creds)), COMMAND_MAX).await;
        if endpoint == TlsEnd::Client || added.is_err() {
            remove(&folder)?;
        }
        added.map_err(|error| error.to_string())?;
        Ok(MigrateSetParameters { tls_creds: Some(CREDS.into()), ..MigrateSetParameters::default() })
    }

    /// From here on this QEMU takes part in a move; when that is over, whoever watches it takes the key away.
    pub(super) fn is_secured(&self) {
        let mut facts = self.facts.borrow_mut();
        facts.moves += 1;
        facts.secured = Some(facts.moves);
    }

    /// Takes the key away if QEMU was seen in `state`, where no move goes on, after it got this move's key.
    pub(super) async fn unsecure_after_move(&self, vm: &Vm, state: State, secured: Option<u64>) {
        let moves = matches!(state, State::Incoming | State::Copying | State::PreSwitchover | State::Switching);
        if secured.is_some() && secured == self.facts.borrow().secured && !moves {
            self.unsecure(vm).await;
        }
    }

    /// Takes the key away, where there is any.
    pub(super) async fn unsecure(&self, vm: &Vm) {
        self.forget_move_key();
        for id in [CREDS, FORMER_AUTHZ] {
            // There is none before the first move.
            let _ = vm.qmp().run(ObjectDel { id: id.into() }, COMMAND_MAX).await;
        }
    }

    /// Keeps the key no longer; QEMU may have it still, or is gone.
    pub(super) fn forget_move_key(&self) {
        {
            let mut facts = self.facts.borrow_mut();
            (facts.secured, facts.move_key) = (None, None);
        }
        if let Err(problem) = remove(&folder(&self.shared.place, &self.name)) {
            tracing::error!(vm = %self.name, "the key of a move stays in its file: {problem}");
        }
    }
}

/// Root's, so that nobody else puts anything in it; QEMU's user passes through to the file that it may read.
fn folder(place: &Place, vm: &VmName) -> PathBuf {
    place.run("tls").join(vm.as_str())
}

fn remove(folder: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("'{}' cannot be removed: {error}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn write(place: &Place, vm: &VmName, folder: &Path, key: &Secret) -> io::Result<()> {
    DirBuilder::new().mode(0o711).create(folder)?;
    let file = folder.join(KEY_FILE);
    put(&file, 0o400, &format!("{KEY_NAME}:{}\n", key.reveal()))?;
    place.give(vm, &file)?;
    put(&folder.join(DH_FILE), 0o444, DH_PARAMETERS)
}

fn put(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(text.as_bytes())
}
