//! What of this machine's own network goes over an interface: the addresses it carries, and the routes through it. On a bridge it would
//! have them no more: what arrives at a bridge's port is the bridge's.
//!
//! Link-local IPv6 addresses are not among them: every interface has one by itself. IPv4 routes are those of the main table.
//!
//! Sources: netdevice(7), `SIOCGIFADDR`; the kernel's `net/ipv4/fib_trie.c` (`fib_route_seq_show`), `net/ipv6/addrconf.c` (`if6_seq_show`),
//! `net/ipv6/route.c` (`rt6_info_route`), `include/uapi/linux/route.h`, `ipv6_route.h`.

use super::link;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

const RTF_UP: u32 = 0x0001;
/// An address or a group of this machine, or a refusal: not a way to somebody else.
const NO_WAY: u32 = 0x8000_0000 | 0x0010_0000 | 0x0200;

/// The addresses and routes of this machine that need the interface, in words: `the address 192.0.2.1`.
///
/// # Errors
/// If the kernel does not say; an interface that is not there needs nothing.
pub fn duties(interface: &str) -> io::Result<Vec<String>> {
    if !link::exists(interface) {
        return Ok(Vec::new());
    }
    let address = link::address(interface)?.map(|ip| format!("the address {ip}"));
    let mut found: Vec<String> = address.into_iter().collect();
    for (file, read) in [("if_inet6", address_v6 as Reader), ("route", route_v4), ("ipv6_route", route_v6)] {
        let text = match std::fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file != "route" => continue,
            Err(error) => return Err(error),
        };
        found.extend(text.lines().filter_map(|line| read(line, interface)));
    }
    Ok(found)
}

/// Reads a line of one of the kernel's files: what it says of this interface.
type Reader = fn(&str, &str) -> Option<String>;

/// `20010db8000000000000000000000001 02 40 00 80 eth1`: address, interface, prefix, scope, flags, name.
fn address_v6(line: &str, interface: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [address, _, _, _, _, name] = words[..] else { return None };
    let ip = ip_v6(address).filter(|ip| name == interface && is_wide(*ip))?;
    Some(format!("the address {ip}"))
}

/// `eth1 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0`: name, destination, gateway, flags, …, mask at the eighth place.
fn route_v4(line: &str, interface: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, to, gateway, flags, _, _, _, mask, ..] = words[..] else { return None };
    let ip = |word: &str| u32::from_str_radix(word, 16).ok().map(|word| Ipv4Addr::from(word.to_ne_bytes()));
    let (to, mask) = (ip(to)?, ip(mask)?);
    let flags = u32::from_str_radix(flags, 16).ok()?;
    if name != interface || flags & RTF_UP == 0 || flags & 0x0200 != 0 {
        return None;
    }
    let gateway = ip(gateway).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
    Some(route(&to.to_string(), u32::from(mask).count_ones(), gateway))
}

/// Destination, its prefix, source, its prefix, gateway, metric, two counts, flags, name.
fn route_v6(line: &str, interface: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [to, prefix, _, _, gateway, _, _, _, flags, name] = words[..] else { return None };
    let (to, prefix) = (ip_v6(to)?, u32::from_str_radix(prefix, 16).ok()?);
    let flags = u32::from_str_radix(flags, 16).ok()?;
    if name != interface || flags & RTF_UP == 0 || flags & NO_WAY != 0 || !(is_wide(to) || prefix == 0) {
        return None;
    }
    let gateway = ip_v6(gateway).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
    Some(route(&to.to_string(), prefix, gateway))
}

fn route(to: &str, prefix: u32, gateway: Option<String>) -> String {
    let to = if prefix == 0 { "the default route".to_owned() } else { format!("the route to {to}/{prefix}") };
    gateway.map_or_else(|| to.clone(), |gateway| format!("{to} via {gateway}"))
}

fn ip_v6(hex: &str) -> Option<Ipv6Addr> {
    u128::from_str_radix(hex, 16).ok().map(Ipv6Addr::from)
}

/// Of more than the link: not what every interface has by itself.
fn is_wide(ip: Ipv6Addr) -> bool {
    !ip.is_unicast_link_local() && !ip.is_multicast() && !ip.is_loopback()
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: D2: what the kernel's files say of an interface is found, what every interface has by itself is not. Method: lines as
    /// Linux 6.12 writes them on a little-endian machine.
    #[test]
    fn lines_of_the_kernel_are_read() {
        fn said(reader: Reader, line: &str) -> Option<String> {
            reader(line, "eth1")
        }
        let own = "20010db8000000000000000000000001 02 40 00 80     eth1";
        assert_eq!(said(address_v6, own).as_deref(), Some("the address 2001:db8::1"));
        assert_eq!(address_v6(own, "eth"), None, "another interface");
        assert_eq!(said(address_v6, "fe80000000000000000000fffe000001 02 40 20 80     eth1"), None);

        #[cfg(target_endian = "little")]
        for (line, expected) in [
            ("eth1\t00000000\tFE0200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0", Some("the default route via 192.0.2.254")),
            ("eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0", Some("the route to 192.0.2.0/24")),
            ("eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0", None),
            ("eth1\t000200C0\t00000000\t0000\t0\t0\t0\t00FFFFFF\t0\t0\t0", None),
            ("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT", None),
        ] {
            assert_eq!(said(route_v4, line).as_deref(), expected, "{line}");
        }

        let none = "0".repeat(32);
        let line = |to: &str, prefix, gateway: &str, flags| {
            format!("{to} {prefix} {none} 00 {gateway} 00000100 00000001 00000000 {flags} eth1")
        };
        let (net, router) = ("20010db8000000000000000000000000", "fe800000000000000000000000000001");
        for (line, expected) in [
            (line(&none, "00", router, "00450003"), Some("the default route via fe80::1")),
            (line(net, "40", &none, "00000001"), Some("the route to 2001:db8::/64")),
            (line("fe800000000000000000000000000000", "40", &none, "00000001"), None),
            (line("ff000000000000000000000000000000", "08", &none, "00000001"), None),
            (line(net, "80", &none, "80200001"), None),
        ] {
            assert_eq!(said(route_v6, &line).as_deref(), expected, "{line}");
        }
    }
}
