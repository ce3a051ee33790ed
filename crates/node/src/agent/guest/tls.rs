//! The certificates of a migration, as QEMU wants them: a folder with fixed names. Both ends show their node's own.
//!
//! Invariant: the node's key lies in that folder only while QEMU reads it.

use super::Guest;
use super::start::COMMAND_MAX;
use crate::agent::place::Place;
use crate::peer::Other;
use host::vm::Vm;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use wire::qmp::{AuthzSimple, MigrateSetParameters, Object, ObjectAdd, ObjectDel, TlsCredsX509, TlsEnd};

/// For TLS 1.2; without them QEMU's server makes some anew each time, which takes a processor for a second. The group
/// ffdhe2048 of RFC 7919, appendix A.1, as PKCS #3 has it. Nothing secret.
const DH_PARAMETERS: &str = include_str!("dh-params.pem");
/// QEMU's name of them.
const CREDS: &str = "tls0";
/// QEMU's name of who may connect.
const AUTHZ: &str = "authz0";

impl Guest {
    /// Gives QEMU its end of a connection to `other`; what the migration has to be told of it.
    pub(super) async fn secure(
        &self,
        vm: &Vm,
        endpoint: TlsEnd,
        other: &Other,
    ) -> Result<MigrateSetParameters, String> {
        let place = &self.shared.place;
        self.unsecure(vm).await;
        // Not in the folder of QEMU's user, who could put a link in its place while it is being filled.
        let folder = place.run("tls").join(self.name.as_str());
        let written = write(place, &folder, endpoint).map_err(|error| format!("'{}': {error}", folder.display()));
        let creds = TlsCredsX509 {
            id: CREDS.into(),
            dir: folder.to_str().ok_or("the folder has no plain name")?.to_owned(),
            endpoint,
            verify_peer: true,
        };
        let added = match written {
            Ok(()) => {
                let added = vm.qmp().run(ObjectAdd(Object::TlsCredsX509(creds)), COMMAND_MAX).await;
                added.map_err(|error| error.to_string())
            }
            Err(error) => Err(error),
        };
        // QEMU has read them; its user has no other way to the node's key.
        let removed = std::fs::remove_dir_all(&folder);
        added?;
        removed.map_err(|error| format!("'{}' cannot be removed: {error}", folder.display()))?;
        let named = MigrateSetParameters { tls_creds: Some(CREDS.into()), ..MigrateSetParameters::default() };
        if endpoint == TlsEnd::Client {
            return Ok(MigrateSetParameters { tls_hostname: Some(other.name.to_string()), ..named });
        }
        let only = AuthzSimple { id: AUTHZ.into(), identity: format!("CN={}", other.name) };
        let added = vm.qmp().run(ObjectAdd(Object::AuthzSimple(only)), COMMAND_MAX).await;
        added.map_err(|error| error.to_string())?;
        Ok(MigrateSetParameters { tls_authz: Some(AUTHZ.into()), ..named })
    }

    /// Takes it away again, where there is any.
    pub(super) async fn unsecure(&self, vm: &Vm) {
        for id in [CREDS, AUTHZ] {
            // There is none before the first migration, and one that is in use goes with QEMU.
            let _ = vm.qmp().run(ObjectDel { id: id.into() }, COMMAND_MAX).await;
        }
    }
}

fn write(place: &Place, folder: &PathBuf, endpoint: TlsEnd) -> io::Result<()> {
    let _ = std::fs::remove_dir_all(folder);
    DirBuilder::new().mode(0o700).create(folder)?;
    let word = match endpoint {
        TlsEnd::Server => "server",
        TlsEnd::Client => "client",
    };
    let files = place.tls();
    let names = [
        (files.ca, "ca-cert.pem".to_owned()),
        (files.certificate, format!("{word}-cert.pem")),
        (files.key, format!("{word}-key.pem")),
    ];
    for (from, name) in names {
        put(place, &folder.join(name), &std::fs::read(from)?)?;
    }
    put(place, &folder.join("dh-params.pem"), DH_PARAMETERS.as_bytes())?;
    place.give(folder)
}

fn put(place: &Place, path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)?;
    place.give(path)
}
