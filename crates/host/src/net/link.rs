//! Network interfaces of this machine by ioctl: made, taken up, put on a bridge. No program is run for it.
//!
//! Sources: netdevice(7); the kernel's `include/uapi/linux/if_tun.h`, `sockios.h`, `if.h`;
//! `Documentation/networking/tuntap.rst`.
#![allow(unsafe_code, reason = "ioctls that rustix has no names for")]

use rustix::fd::{AsFd, OwnedFd};
use rustix::ioctl::{Opcode, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// With its final zero. Source: `if.h`, `IFNAMSIZ`.
pub(super) const NAME_MAX: usize = 15;
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCGIFADDR: Opcode = 0x8915;
const SIOCBRADDBR: Opcode = 0x89a0;
const SIOCBRADDIF: Opcode = 0x89a2;
const IFF_UP: i16 = 1;
const IFF_TAP: i16 = 2;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
const TUNSETIFF: Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
const TUNSETPERSIST: Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 203);
const TUNSETOWNER: Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 204);

/// `struct ifreq`: a name and a union of 24 bytes.
#[repr(C)]
struct Request {
    name: [u8; NAME_MAX + 1],
    value: [u8; 24],
}

impl Request {
    fn new(name: &str, value: &[u8]) -> io::Result<Self> {
        let mut request = Self { name: [0; NAME_MAX + 1], value: [0; 24] };
        let fits = (1..=NAME_MAX).contains(&name.len()) && !name.contains(['/', '\0', ' ', ':']);
        if !fits {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("'{name}' is no interface's name")));
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        request.value[..value.len()].copy_from_slice(value);
        Ok(request)
    }
}

/// An ioctl by which the kernel reads or writes a [`Request`].
struct Exchange<const OPCODE: Opcode>(Request);

// SAFETY: the opcodes that this type is used with read and write one `struct ifreq`, 40 bytes on 64-bit machines;
// `Request` has that layout by repr(C), any bytes are a valid one, and it lives until the call has returned.
unsafe impl<const OPCODE: Opcode> rustix::ioctl::Ioctl for Exchange<OPCODE> {
    type Output = Request;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(
        _: rustix::ioctl::IoctlOutput,
        pointer: *mut core::ffi::c_void,
    ) -> rustix::io::Result<Request> {
        // SAFETY: it is the pointer that `as_ptr` gave, to a whole Request.
        Ok(unsafe { pointer.cast::<Request>().read() })
    }
}

fn exchange<const OPCODE: Opcode>(fd: impl AsFd, request: Request) -> io::Result<Request> {
    // SAFETY: see `Exchange`; a descriptor that does not know the opcode answers ENOTTY.
    Ok(unsafe { ioctl(fd, Exchange::<OPCODE>(request)) }?)
}

/// Any socket will do to ask about interfaces.
fn asking() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// Whether there is an interface of this name.
pub(super) fn exists(name: &str) -> bool {
    sysfs(name).exists()
}

/// What the kernel shows of an interface.
pub(super) fn sysfs(name: &str) -> PathBuf {
    PathBuf::from("/sys/class/net").join(name)
}

/// Takes an interface up.
pub(super) fn set_up(name: &str) -> io::Result<()> {
    let socket = asking()?;
    let asked = exchange::<SIOCGIFFLAGS>(&socket, Request::new(name, &[])?)?;
    let flags = i16::from_ne_bytes([asked.value[0], asked.value[1]]) | IFF_UP;
    exchange::<SIOCSIFFLAGS>(&socket, Request::new(name, &flags.to_ne_bytes())?).map(drop)
}

/// The first IPv4 address of an interface, if it has one.
pub(super) fn address(name: &str) -> io::Result<Option<Ipv4Addr>> {
    match exchange::<SIOCGIFADDR>(asking()?, Request::new(name, &[])?) {
        // A `struct sockaddr_in`: family, port, address in the order of the network.
        Ok(Request { value: [_, _, _, _, a, b, c, d, ..], .. }) => Ok(Some(Ipv4Addr::new(a, b, c, d))),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an interface is up and has somebody at the other end of its cable.
pub(super) fn has_carrier(name: &str) -> bool {
    // Of one that is down the kernel says EINVAL. Source: its `Documentation/ABI/testing/sysfs-class-net`, `carrier`.
    std::fs::read_to_string(sysfs(name).join("carrier")).is_ok_and(|text| text.trim() == "1")
}

/// Which interface this one belongs to: a bridge, a bond.
pub(super) fn master(name: &str) -> Option<String> {
    let master = std::fs::read_link(sysfs(name).join("master")).ok()?;
    Some(master.file_name()?.to_string_lossy().into_owned())
}

/// Makes a bridge.
pub(super) fn make_bridge(name: &str) -> io::Result<()> {
    // The name goes as a bare string of IFNAMSIZ bytes, which is how a Request begins.
    exchange::<SIOCBRADDBR>(asking()?, Request::new(name, &[])?).map(drop)
}

/// Puts `port` on `bridge`.
pub(super) fn enslave(bridge: &str, port: &str) -> io::Result<()> {
    let index = std::fs::read_to_string(sysfs(port).join("ifindex"))?;
    let index: i32 = index.trim().parse().map_err(io::Error::other)?;
    exchange::<SIOCBRADDIF>(asking()?, Request::new(bridge, &index.to_ne_bytes())?).map(drop)
}

/// Makes a tap that stays, for `uid`; or takes the one there is.
pub(super) fn make_tap(name: &str, uid: Option<u32>) -> io::Result<()> {
    let tun = open_tap(name)?;
    if let Some(uid) = uid {
        let uid = i32::try_from(uid).map_err(io::Error::other)?;
        set::<TUNSETOWNER>(&tun, uid)?;
    }
    set::<TUNSETPERSIST>(&tun, 1)
}

/// Removes a tap that nobody holds.
pub(super) fn unmake_tap(name: &str) -> io::Result<()> {
    set::<TUNSETPERSIST>(&open_tap(name)?, 0)
}

fn open_tap(name: &str) -> io::Result<std::fs::File> {
    let tun = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?;
    // As QEMU will ask for it: the flags of a tap that exists have to be the same.
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    exchange::<TUNSETIFF>(&tun, Request::new(name, &flags.to_ne_bytes())?)?;
    Ok(tun)
}

/// An ioctl of a tap whose argument is the number itself.
fn set<const OPCODE: Opcode>(tun: &std::fs::File, value: i32) -> io::Result<()> {
    let value = usize::try_from(value).map_err(io::Error::other)?;
    // SAFETY: TUNSETPERSIST and TUNSETOWNER take a number, no pointer: nothing of ours is read or written.
    unsafe { ioctl(tun, rustix::ioctl::IntegerSetter::<OPCODE>::new_usize(value)) }?;
    Ok(())
}
