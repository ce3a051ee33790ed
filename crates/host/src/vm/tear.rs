//! A process's TCP connection to one peer is shut from outside, as if the peer had reset it.
//!
//! Needed for QEMU: it shakes hands for a migration's TLS in its main loop, on a socket that blocks, and `yank` does not
//! know of that socket yet. If the other machine goes silent at that moment the guest stands still until the kernel gives
//! the connection up, which may take a quarter of an hour. The process is named by its pidfd and a connection by its peer:
//! nothing else is touched.

use super::Process;
use rustix::io::Errno;
use rustix::net::{Shutdown, getpeername, shutdown};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use std::io;
use std::net::SocketAddr;

impl Process {
    /// Shuts its connections to `peer`; how many descriptors there were.
    ///
    /// # Errors
    /// If we may not look at its sockets.
    pub fn tear(&self, peer: SocketAddr) -> io::Result<usize> {
        let mut torn = 0;
        for entry in std::fs::read_dir(format!("/proc/{}/fd", self.identity().pid))? {
            let entry = entry?;
            // A descriptor that is closed meanwhile is none of ours; neither is what is no socket.
            let is_socket =
                std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()).filter(|_| is_socket)
            else {
                continue;
            };
            let socket = match pidfd_getfd(self.pidfd(), number, PidfdGetfdFlags::empty()) {
                Err(Errno::BADF) => continue,
                socket => socket?,
            };
            let theirs = getpeername(&socket).ok().flatten().and_then(|address| SocketAddr::try_from(address).ok());
            if theirs == Some(peer) && shutdown(&socket, Shutdown::Both).is_ok() {
                torn += 1;
            }
        }
        Ok(torn)
    }
}

#[cfg(test)]
mod test {
    use super::super::Identity;
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    /// Goal: a process that waits for a silent peer in a blocking read gets its end, and its other connection stays.
    /// Method: a shell with two connections that reads from one and tells when that ended.
    #[test]
    fn a_blocked_reader_is_freed() {
        let [silent, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let ports = [&silent, &other].map(|it| it.local_addr().expect("bound").port());
        let script = format!(
            "exec 5<>/dev/tcp/127.0.0.1/{} 6<>/dev/tcp/127.0.0.1/{}; read -r x <&5; echo freed; read -r x <&6; echo $x",
            ports[0], ports[1]
        );
        let mut shell =
            Command::new("bash").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("bash is there");
        let (_kept, _) = silent.accept().expect("it connects");
        let (mut second, _) = other.accept().expect("it connects");
        let identity = Identity::of(i32::try_from(shell.id()).expect("a pid"));
        let identity = identity.expect("the kernel says").expect("it lives");
        let process = Process::find(&identity).expect("the kernel has pidfds").expect("it lives");
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(process.tear(address(1)).expect("ours"), 0, "nobody is there");
        assert!(process.tear(address(ports[0])).expect("ours") > 0);
        let mut said = [0; 6];
        shell.stdout.as_mut().expect("piped").read_exact(&mut said).expect("it goes on");
        assert_eq!(&said, b"freed\n");
        assert!(still_open(&mut second), "the other connection is as it was");
        std::io::Write::write_all(&mut second, b"7\n").expect("open");
        assert!(shell.wait().expect("ours").success());
    }

    fn still_open(stream: &mut TcpStream) -> bool {
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("plain");
        let begun = Instant::now();
        stream.read(&mut [0; 1]).is_err() && begun.elapsed() >= Duration::from_millis(40)
    }
}
