//! Listening and connecting, with the settings every data-plane socket has.

use super::transport::{Peer, Transport};
use crate::runtime::{now, sleep_until};
use crate::users::give;
use rustix::fs::{FlockOperation, Mode, flock};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use units::Millis;

/// Connections that nobody has accepted yet. A thread that is busy for some milliseconds must not lose one to a flood: a lost SYN
/// costs a second. The kernel takes at most `net.core.somaxconn`, 4096 since Linux 5.4. Source: listen(2).
const BACKLOG: i32 = 4096;
/// An address that cannot be had is tried again this often.
const LISTEN_AGAIN: Millis = Millis(1_000);
/// `sun_path` is 108 bytes with its final zero. Source: unix(7).
const UNIX_PATH_MAX: usize = 107;
/// A connection whose peer is gone for good is cleared away after about two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;
/// Taking over a stale socket's path is a matter of microseconds; who holds the folder's lock longer is no listener.
const FOLDER_LOCK_TRIES: u32 = 40;
const FOLDER_LOCK_PAUSE: Duration = Duration::from_millis(25);

/// Why nobody can listen or connect there, for people.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The path does not fit a Unix socket's address.
    #[error("socket path '{path}' is {found} bytes long, {UNIX_PATH_MAX} at most are possible: use a shorter folder")]
    PathTooLong {
        /// Which.
        path: PathBuf,
        /// How long it is.
        found: usize,
    },
    /// Somebody answers there.
    #[error("'{0}' is in use: another program answers there; stop it or choose another path")]
    Answered(PathBuf),
    /// Something that is no socket stands there; it is never removed.
    #[error("'{0}' exists and is no socket: move it away or choose another path")]
    NotASocket(PathBuf),
    /// The kernel refused to listen.
    #[error("cannot listen on {place} ({source}): check that the address is this machine's and free")]
    Listen {
        /// Where.
        place: String,
        /// What it said.
        source: io::Error,
    },
    /// Nobody was reached.
    #[error("cannot connect to {place} ({source}): nothing listens there, or the network does not let it through")]
    Connect {
        /// Where.
        place: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A listening socket.
pub struct Listener {
    socket: Socketed,
    _own_path: Option<OwnPath>,
}

enum Socketed {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A socket's path that goes away with its listener, unless somebody has put another socket there.
struct OwnPath {
    path: PathBuf,
    inode: (u64, u64),
}

impl Listener {
    /// Listens on an address; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// [`NetError::Listen`].
    pub fn tcp(address: SocketAddr) -> Result<Self, NetError> {
        let listen = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        };
        let socket = listen().map_err(|source| NetError::Listen { place: address.to_string(), source })?;
        Ok(Self { socket: Socketed::Tcp(socket), _own_path: None })
    }

    /// Listens on a Unix socket that only its owner may use. A socket nobody answers on is replaced.
    ///
    /// # Errors
    /// [`NetError`]; nothing that is in use, and nothing that is no socket, is removed.
    pub fn unix(path: &Path) -> Result<Self, NetError> {
        Self::unix_of(path, None)
    }

    /// The same for whoever has the folder: in a QEMU's folder, for QEMU.
    ///
    /// # Errors
    /// As [`Listener::unix`].
    pub fn unix_of_folder(path: &Path) -> Result<Self, NetError> {
        let folder = std::fs::symlink_metadata(folder_of(path));
        let folder = folder.map_err(|source| NetError::Listen { place: path.display().to_string(), source })?;
        Self::unix_of(path, Some((folder.uid(), folder.gid())))
    }

    fn unix_of(path: &Path, owner: Option<(u32, u32)>) -> Result<Self, NetError> {
        check_path(path)?;
        let failed = |source| NetError::Listen { place: path.display().to_string(), source };
        let _alone = lock_folder(path).map_err(failed)?;
        remove_if_stale(path)?;
        let listen = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            // The path gets the socket's mode as it is made: nothing is changed by name, which somebody else may exchange. Source:
            // the kernel's `net/unix/af_unix.c`, `unix_bind_bsd`.
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            socket.bind(&SockAddr::unix(path)?)?;
            owner.map_or(Ok(()), |(uid, gid)| give(path, uid, gid))?;
            // Nobody can connect before `listen`.
            socket.listen(BACKLOG)?;
            let meta = std::fs::symlink_metadata(path)?;
            let own = OwnPath { path: path.to_owned(), inode: (meta.dev(), meta.ino()) };
            let socket = UnixListener::from_std(socket.into())?;
            Ok(Self { socket: Socketed::Unix(socket), _own_path: Some(own) })
        };
        listen().map_err(failed)
    }

    /// The address it listens on, if it is a TCP one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn tcp_address(&self) -> io::Result<Option<SocketAddr>> {
        match &self.socket {
            Socketed::Tcp(socket) => socket.local_addr().map(Some),
            Socketed::Unix(_) => Ok(None),
        }
    }

    /// The next connection. Safe to drop and call again.
    ///
    /// # Errors
    /// What the kernel says; a limit of open files (EMFILE) passes, so wait a moment before the next call.
    pub async fn accept(&self) -> io::Result<Transport> {
        match &self.socket {
            Socketed::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                tcp_transport(stream, address)
            }
            Socketed::Unix(socket) => Transport::unix(socket.accept().await?.0),
        }
    }
}

/// Listens as soon as that is possible: an address may come later, by DHCP or with its interface, or be in use a while longer.
/// `told` hears after each try what stands in the way, or that nothing does.
pub async fn when_there(
    listen: impl Fn() -> Result<Listener, NetError>,
    mut told: impl FnMut(Option<&NetError>),
) -> Listener {
    loop {
        match listen() {
            Ok(listener) => {
                told(None);
                return listener;
            }
            Err(error) => told(Some(&error)),
        }
        sleep_until(now() + LISTEN_AGAIN).await;
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        let here = std::fs::symlink_metadata(&self.path);
        if here.is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Connects by TCP within `limit`.
///
/// # Errors
/// [`NetError::Connect`].
pub async fn connect_tcp(address: SocketAddr, limit: Millis) -> Result<Transport, NetError> {
    let connected = tokio::time::timeout(limit.into(), TcpStream::connect(address)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let connected = connected.and_then(|stream| tcp_transport(stream, address));
    connected.map_err(|source| NetError::Connect { place: address.to_string(), source })
}

/// Connects to a Unix socket.
///
/// # Errors
/// [`NetError::Connect`] or [`NetError::PathTooLong`].
pub async fn connect_unix(path: &Path) -> Result<Transport, NetError> {
    check_path(path)?;
    let connected = UnixStream::connect(path).await.and_then(Transport::unix);
    connected.map_err(|source| NetError::Connect { place: path.display().to_string(), source })
}

fn tcp_transport(stream: TcpStream, address: SocketAddr) -> io::Result<Transport> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE);
    let keepalive = keepalive.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(Transport::tcp(stream, Peer::Tcp(address)))
}

fn check_path(path: &Path) -> Result<(), NetError> {
    let found = path.as_os_str().len();
    if found > UNIX_PATH_MAX { Err(NetError::PathTooLong { path: path.to_owned(), found }) } else { Ok(()) }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Two programs that start at once must not take each other's fresh socket for a stale one.
fn lock_folder(path: &Path) -> io::Result<File> {
    let folder = File::open(folder_of(path))?;
    for _ in 0..FOLDER_LOCK_TRIES {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(_) => std::thread::sleep(FOLDER_LOCK_PAUSE),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

fn remove_if_stale(path: &Path) -> Result<(), NetError> {
    let failed = |source| NetError::Listen { place: path.display().to_string(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(NetError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed),
        // It answers, or it cannot be told (a full backlog, no permission): somebody is there.
        _ => Err(NetError::Answered(path.to_owned())),
    }
}
