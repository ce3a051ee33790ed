//! TLS: who a client is, is its key.

use crate::support::{StorageBox, have, tool, try_tool};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A CA, and certificates of it in the layout libnbd and QEMU want: one folder per machine.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let (mut params, key) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A machine's folder; returns its identity.
    pub fn machine(&self, dir: &Path, role: &str) -> String {
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("ca-cert.pem"), &self.pem).unwrap();
        std::fs::write(dir.join(format!("{role}-cert.pem")), certificate.pem()).unwrap();
        let path = dir.join(format!("{role}-key.pem"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        host::net::host_key_of(certificate.der()).unwrap().to_string()
    }
}

/// A box that serves over TLS with the files in `server`; its port.
pub fn tls_box(authority: &Authority) -> (StorageBox, String) {
    let mut storage = StorageBox::new(2);
    authority.machine(&storage.path("server"), "server");
    storage.configure(
        "[[listen]]\nnbd = \"127.0.0.1:0\"\n\
         tls = { certificate = \"server/server-cert.pem\", key = \"server/server-key.pem\", ca = \"server/ca-cert.pem\" }",
    );
    storage.start();
    let log = storage.log();
    let address = log.lines().find_map(|line| line.split("serving on ").nth(1)?.strip_suffix(" (TLS)"));
    let port = address.and_then(|address| address.rsplit(':').next()).expect("it says where it listens").to_owned();
    (storage, port)
}

/// Goal: over TLS the key decides; without a certificate, with a foreign CA's, or in plaintext nobody gets in. Method:
/// two clients of one CA, one granted; nbdinfo and nbdcopy with each.
#[test]
fn the_key_decides() {
    if !["nbdinfo", "nbdcopy"].into_iter().all(have) {
        return;
    }
    let authority = Authority::new();
    let (storage, port) = tls_box(&authority);
    let granted = authority.machine(&storage.path("one"), "client");
    authority.machine(&storage.path("two"), "client");
    Authority::new().machine(&storage.path("foreign"), "client");
    std::fs::create_dir_all(storage.path("none")).unwrap();
    std::fs::copy(storage.path("one/ca-cert.pem"), storage.path("none/ca-cert.pem")).unwrap();
    std::fs::copy(storage.path("one/ca-cert.pem"), storage.path("foreign/ca-cert.pem")).unwrap();
    storage.ctl(&["pool", "create", "tank", &storage.text("d0"), &storage.text("d1")]);
    storage.ctl(&["volume", "create", "tank", "web1", "16M"]);
    storage.wait_for_volume();
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", &granted]);

    let uri = |who: &str| format!("nbds://localhost:{port}/web1?tls-certificates={}", storage.text(who));
    let info = tool(&["nbdinfo", &uri("one")]);
    assert!(info.contains("with TLS"), "{info}");
    crate::support::pattern(&storage.path("image"), 16);
    let back = storage.text("back");
    tool(&["nbdcopy", &storage.text("image"), &uri("one")]);
    tool(&["nbdcopy", &uri("one"), &back]);
    assert!(std::fs::read(storage.path("image")).unwrap() == std::fs::read(storage.path("back")).unwrap());
    for stranger in ["two", "none", "foreign"] {
        let (worked, printed) = try_tool(&["nbdinfo", &uri(stranger)]);
        assert!(!worked, "{stranger}: {printed}");
    }
    assert!(storage.log().contains("not granted"), "the second client was refused by the gate");
    let (worked, printed) = try_tool(&["nbdinfo", &format!("nbd://localhost:{port}/web1")]);
    assert!(!worked, "plaintext: {printed}");
}

/// Goal: renewed files are used without a restart, and files that cannot be used change nothing. Method: a client looks in;
/// then every file of the target is of another CA, then its certificate is spoiled.
#[test]
fn renewed_files_are_used_without_a_restart() {
    if !have("nbdinfo") {
        return;
    }
    let (before, after) = (Authority::new(), Authority::new());
    let (storage, port) = tls_box(&before);
    before.machine(&storage.path("one"), "client");
    after.machine(&storage.path("two"), "client");
    // Who is let in by TLS is told an empty list of exports: nobody was granted anything.
    let gets_in = |who: &str| {
        let certificates = storage.text(who);
        try_tool(&["nbdinfo", "--list", &format!("nbds://localhost:{port}/?tls-certificates={certificates}")]).0
    };
    assert_eq!(("one", gets_in("one"), "two", gets_in("two")), ("one", true, "two", false));
    after.machine(&storage.path("server"), "server");
    assert_eq!(("one", gets_in("one"), "two", gets_in("two")), ("one", false, "two", true));
    std::fs::write(storage.path("server/server-cert.pem"), "half a cert").unwrap();
    assert_eq!(("one", gets_in("one"), "two", gets_in("two")), ("one", false, "two", true));
    let log = storage.log();
    assert_eq!(log.matches("renewed TLS files cannot be used").count(), 1, "{log}");
}
