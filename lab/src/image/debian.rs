//! This machine's Debian: its release, its mirror, its libc.

use super::tool;
use anyhow::Context;
use std::path::Path;
use std::process::Command;

/// What nobody reads in a guest that nobody logs into.
const EXCLUDED: [&str; 4] = ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*"];

/// All that decides how a guest's tree turns out, but for its packages, its overlay and the mirror's own progress.
pub struct Debian {
    suite: String,
    sources: Vec<String>,
    proxy: Option<String>,
}

impl Debian {
    /// Of this machine's release and mirror.
    ///
    /// # Errors
    /// When this is no Debian, or apt knows no source of it.
    pub fn of_this_machine() -> anyhow::Result<Self> {
        let suite = codename()?;
        let sources = sources(&suite)?;
        Ok(Self { suite, sources, proxy: proxy()? })
    }

    /// The release.
    #[must_use]
    pub fn suite(&self) -> &str {
        &self.suite
    }

    /// What of it decides how a tree turns out.
    #[must_use]
    pub fn words(&self) -> String {
        [self.suite.clone(), self.sources.concat(), EXCLUDED.concat()].join("\0")
    }

    /// The command that makes the tree. In namespaces of its own: when it ends, however, nothing of it runs and
    /// nothing is mounted; and it ends with us.
    ///
    /// # Errors
    /// When the overlay's path cannot be put into a hook.
    pub fn mmdebstrap(&self, packages: &str, overlay: &Path, tree: &Path, scratch: &Path) -> anyhow::Result<Command> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"]);
        command.arg(format!("--include={packages}"));
        command.arg("--aptopt=APT::Install-Recommends \"false\"");
        if let Some(proxy) = &self.proxy {
            command.arg(format!("--aptopt=Acquire::http::Proxy \"{proxy}\""));
        }
        command.args(EXCLUDED.map(|path| format!("--dpkgopt=path-exclude={path}")));
        let overlay = overlay.to_str().filter(|path| !path.contains(['\'', ' ']));
        let overlay = overlay.context("the cache's path has spaces or quotes in it")?;
        // Before the kernel is installed, whose initramfs is made then.
        command.arg(format!("--essential-hook=sync-in {overlay} /"));
        command.arg(&self.suite).arg(tree).args(&self.sources);
        command.env("TMPDIR", scratch).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        Ok(command)
    }
}

/// The release's code name, as in `bookworm`.
fn codename() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let field = |key: &str| text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_matches('"').to_owned()));
    anyhow::ensure!(
        field("ID=").as_deref() == Some("debian"),
        "this is not Debian: the guest's image is made of its own"
    );
    field("VERSION_CODENAME=").context("/etc/os-release has no VERSION_CODENAME")
}

/// apt's sources for the guest, one `deb` line each: those of this machine that are of its release and its updates.
/// apt itself reads its configuration (`apt-get indextargets`, apt-get(8)), whatever the files' format.
fn sources(codename: &str) -> anyhow::Result<Vec<String>> {
    const FORMAT: &str = "$(RELEASE) $(COMPONENT) $(REPO_URI)";
    let listed = tool(Command::new("apt-get").args(["indextargets", "--format", FORMAT, "Created-By: Packages"]))?;
    let found = own_sources(&listed, codename);
    anyhow::ensure!(!found.is_empty(), "apt knows no source of {codename} main: see /etc/apt/sources.list.d");
    Ok(found)
}

fn own_sources(listed: &str, codename: &str) -> Vec<String> {
    let ours = ["", "-updates", "-security"].map(|suffix| format!("{codename}{suffix}"));
    let lines = listed.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (release, component, uri) = (words.next()?, words.next()?, words.next()?);
        let is_ours = component == "main" && ours.iter().any(|suite| suite == release);
        is_ours.then(|| format!("deb {uri} {release} main"))
    });
    let mut found: Vec<String> = Vec::new();
    for line in lines {
        if !found.contains(&line) {
            found.push(line);
        }
    }
    found
}

/// The proxy that this machine's apt uses, if any.
fn proxy() -> anyhow::Result<Option<String>> {
    let said = tool(Command::new("apt-config").args(["shell", "PROXY", "Acquire::http::Proxy"]))?;
    let proxy = said.trim().strip_prefix("PROXY='").and_then(|text| text.strip_suffix('\''));
    Ok(proxy.filter(|proxy| !proxy.is_empty() && !proxy.contains('"')).map(str::to_owned))
}

/// The guest's program is built here and runs there: the guest's libc must not be older than ours.
///
/// # Errors
/// When it is.
pub fn check_libc(tree: &Path) -> anyhow::Result<()> {
    let version = |query: &mut Command| tool(query.args(["-W", "-f", "${Version}", "libc6"]));
    let ours = version(&mut Command::new("dpkg-query"))?;
    let theirs = version(Command::new("dpkg-query").arg("--admindir").arg(tree.join("var/lib/dpkg")))?;
    // "2.36-9+deb12u14": symbols belong to the version before the dash.
    let upstream = |version: &str| version.split('-').next().unwrap_or_default().to_owned();
    let (ours, theirs) = (upstream(&ours), upstream(&theirs));
    let is_fine = Command::new("dpkg").args(["--compare-versions", &theirs, "ge", &ours]).status()?.success();
    anyhow::ensure!(
        is_fine,
        "the guest would have libc {theirs}, this machine has {ours}: what is built here does not run there"
    );
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: another release or mirror is another image. Method: two that differ in one thing.
    #[test]
    fn another_debian_is_another_image() {
        let words = |suite: &str, source: &str| {
            Debian { suite: suite.into(), sources: vec![source.into()], proxy: None }.words()
        };
        assert_ne!(words("bookworm", "a"), words("trixie", "a"));
        assert_ne!(words("bookworm", "a"), words("bookworm", "b"));
        assert_eq!(words("bookworm", "a"), words("bookworm", "a"));
    }

    /// Goal: the guest is made of this release's own archive, each source once. Method: what apt may list.
    #[test]
    fn only_the_releases_own_sources_count() {
        let listed = "bookworm main http://mirror.example/debian/\nbookworm main http://mirror.example/debian/\nbookworm contrib http://third.example/debian/\nbookworm-updates main http://mirror.example/debian/\nbookworm-security main http://mirror.example/debian-security/\nbookworm-backports main http://mirror.example/debian/\nnodistro main https://other.example/node/\n\n";
        assert_eq!(
            own_sources(listed, "bookworm"),
            [
                "deb http://mirror.example/debian/ bookworm main",
                "deb http://mirror.example/debian/ bookworm-updates main",
                "deb http://mirror.example/debian-security/ bookworm-security main",
            ]
        );
    }
}
