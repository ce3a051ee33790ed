//! The parts of a NoCloud seed that the guest follows: name, keys, a static address. It reads the lines it knows and
//! lets all others be; it is no YAML parser, and a seed that needs one gets no address.
//!
//! Source: cloud-init, "NoCloud" data source; network configuration, formats version 1 and 2.

use std::net::IpAddr;

/// What a seed says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seed {
    /// `local-hostname` of `meta-data`.
    pub hostname: Option<String>,
    /// `ssh_authorized_keys` of `user-data`.
    pub ssh_keys: Vec<String>,
    /// Static addresses with their prefixes, as in `10.77.4.50/24`, of `network-config`.
    pub addresses: Vec<String>,
    /// Where everything else goes.
    pub gateway: Option<IpAddr>,
}

impl Seed {
    /// Reads the three files; one that is not there is empty.
    pub fn read(meta_data: &str, user_data: &str, network_config: &str) -> Self {
        // A route's destination looks like an address.
        let network = network_config.lines().filter(|line| !line.contains("to:")).flat_map(values);
        let named = |key: &str| lines_of(network_config, key).next();
        Self {
            hostname: lines_of(meta_data, "local-hostname").next().filter(|name| is_hostname(name)),
            ssh_keys: list_of(user_data, "ssh_authorized_keys"),
            addresses: network.filter(|text| is_address(text)).map(str::to_owned).collect(),
            gateway: ["gateway4", "via", "gateway"].into_iter().find_map(|key| named(key)?.parse().ok()),
        }
    }
}

/// The values of every line `key: value`.
fn lines_of(text: &str, key: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(move |line| {
        let line = line.trim().trim_start_matches("- ");
        Some(unquoted(line.strip_prefix(key)?.strip_prefix(':')?)).filter(|value| !value.is_empty())
    })
}

/// The items below `key:`, one a line.
fn list_of(text: &str, key: &str) -> Vec<String> {
    let mut lines = text.lines().skip_while(|line| line.trim().strip_suffix(':') != Some(key));
    lines.next();
    lines.map_while(|line| line.trim_start().strip_prefix("- ")).map(unquoted).collect()
}

/// Plain, or in quotes with the two escapes that ASCII needs.
fn unquoted(text: &str) -> String {
    let text = text.trim();
    let inner = |quote| text.strip_prefix(quote).and_then(|text: &str| text.strip_suffix(quote));
    match (inner('"'), inner('\'')) {
        (Some(text), _) => text.replace("\\\"", "\"").replace("\\\\", "\\"),
        (_, Some(text)) => text.replace("''", "'"),
        _ => text.to_owned(),
    }
}

/// What may be a value in a line: its words without YAML's signs.
fn values(line: &str) -> impl Iterator<Item = &str> {
    let line = line.split('#').next().unwrap_or_default();
    line.split(|c: char| c.is_whitespace() || "[],\"'".contains(c)).filter(|word| !word.is_empty())
}

/// An address with its prefix that an interface can have: not a route's `0.0.0.0/0`.
fn is_address(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let bits = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) if !address.is_unspecified() => 32,
        Ok(IpAddr::V6(address)) if !address.is_unspecified() => 128,
        _ => return false,
    };
    prefix.parse::<u8>().is_ok_and(|prefix| (1..=bits).contains(&prefix))
}

fn is_hostname(name: &str) -> bool {
    (1..=253).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: seeds as muskox and as people write them are understood. Method: both versions of the network's file.
    #[test]
    fn name_keys_and_address_are_found() {
        let meta = "instance-id: \"4f7c9e3a\"\nlocal-hostname: web1\n";
        let user = "#cloud-config\nhostname: web1\nssh_authorized_keys:\n  - \"ssh-ed25519 AAAA me@\\\"home\\\"\"\n  - ssh-rsa BBBB you\nfoo: bar\n";
        let flow = "version: 2\nethernets:\n  all:\n    match: {name: \"e*\"}\n    addresses: [10.77.4.50/24]\n    routes:\n      - to: 10.0.0.0/8\n        via: 10.77.4.1\n    nameservers:\n      addresses: [9.9.9.9]\n";
        let block = "version: 2\nethernets:\n  eth0:\n    addresses:\n      - \"10.77.4.50/24\" # ours\n    gateway4: 10.77.4.1\n";
        let first = "version: 1\nconfig:\n  - type: physical\n    name: eth0\n    subnets:\n      - type: static\n        address: 10.77.4.50/24\n        gateway: 10.77.4.1\n";
        for network in [flow, block, first] {
            let seed = Seed::read(meta, user, network);
            assert_eq!(seed.hostname.as_deref(), Some("web1"));
            assert_eq!(seed.ssh_keys, ["ssh-ed25519 AAAA me@\"home\"", "ssh-rsa BBBB you"]);
            assert_eq!(seed.addresses, ["10.77.4.50/24"], "{network}");
            assert_eq!(seed.gateway, Some("10.77.4.1".parse().unwrap()), "{network}");
        }
        assert_eq!(Seed::read("", "", ""), Seed::default());
        assert_eq!(Seed::read("local-hostname: a;b", "", "addresses: [10.0.0.1/33, x/1, ::/0]"), Seed::default());
    }
}
