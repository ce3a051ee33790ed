//! The echo: answers probes with the boot that answers.

use anyhow::Context;
use lab::demo::guest::record::Boot;
use lab::demo::guest::{ECHO_PORT, words};
use std::net::{Ipv4Addr, UdpSocket};

/// Starts it in a thread of its own.
pub fn start(boot: Boot) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ECHO_PORT)).context("opening the echo's port")?;
    std::thread::spawn(move || {
        let mut datagram = [0; words::DATAGRAM_MAX];
        loop {
            let Ok((len, from)) = socket.recv_from(&mut datagram) else { continue };
            if let Some(answer) = words::answer(&datagram[..len], boot) {
                // Lost is lost, as on any network: the prober goes on counting.
                let _ = socket.send_to(answer.as_bytes(), from);
            }
        }
    });
    Ok(())
}
