//! What only a terminal shows: raw keys at a console and the terminal as it was afterwards, names that are typed, a
//! line that is drawn again.

use crate::support::{Came, Node};
use crate::{IMPORT, import};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

/// A terminal: the end of who sits there, and the program's.
struct Terminal {
    person: File,
    program: OwnedFd,
}

impl Terminal {
    fn new() -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap();
        let program = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        Self { person: person.into(), program }
    }

    fn stdio(&self) -> Stdio {
        self.program.try_clone().unwrap().into()
    }

    fn read_until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(end.as_bytes()) {
            assert_eq!(self.person.read(&mut byte).unwrap(), 1);
            text.push(byte[0]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Whether keys go to the program as they are: no line editing, no signals, no echo.
    fn is_raw(&self) -> bool {
        let cooked = LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO;
        !tcgetattr(&self.program).unwrap().local_modes.intersects(cooked)
    }
}

/// Goal: at a console Ctrl-C is the guest's, Ctrl-] leaves, and the terminal is as it was. Method: a pseudoterminal.
#[test]
fn a_console_leaves_the_terminal_as_it_was() {
    let node = Node::new(Box::new(|_, _| Some((101, Value::Null))));
    let mut terminal = Terminal::new();
    assert!(!terminal.is_raw());
    let mut command = node.muskox("vm console web1");
    let child = command.stdin(terminal.stdio()).stdout(terminal.stdio()).spawn().unwrap();
    assert_eq!(terminal.read_until("login: "), "login: ");
    assert!(terminal.is_raw());
    terminal.person.write_all(b"a\x03b\r").unwrap();
    assert_eq!(terminal.read_until("\r"), "A\u{3}B\r", "no echo, no signal, no new line");
    terminal.person.write_all(b"\x1d").unwrap();
    let came = Came::of(child);
    assert!(came.code == 0 && came.err.starts_with("at the console of 'web1': Ctrl-] leaves"), "{came:?}");
    assert!(!terminal.is_raw());
}

/// Goal: at a terminal a removal goes on only when its name is typed. Method: the name, and something else.
#[test]
fn a_removal_asks_for_the_name() {
    for (typed, code) in [("web1-root\n", 0), ("y\n", 1)] {
        let node = Node::new(Box::new(|_, _| Some((200, json!({"text": "gone"})))));
        let mut terminal = Terminal::new();
        let child = node.muskox("volume remove web1-root").stdin(terminal.stdio()).spawn().unwrap();
        terminal.person.write_all(typed.as_bytes()).unwrap();
        let came = Came::of(child);
        assert!(came.err.contains("Type its name to go on: "), "{came:?}");
        assert_eq!((came.code, node.heard().len()), (code, usize::from(code == 0)), "{came:?}");
    }
}

/// Goal: at a terminal progress is one line, drawn again, and gone at the end. Method: an import of a second.
#[test]
fn progress_is_one_line_drawn_again() {
    let node = import(false);
    let mut terminal = Terminal::new();
    let child = node.muskox(IMPORT).stderr(terminal.stdio()).spawn().unwrap();
    let drawn = terminal.read_until("\r\u{1b}[K");
    let came = Came::of(child);
    assert_eq!((came.code, came.out.as_str()), (0, "web1-root is as it was\n"));
    let pieces: Vec<&str> = drawn.trim_start_matches('\r').split("\u{1b}[K").collect();
    assert!(pieces[0].starts_with("[######..................]  25 %  1 GiB of 4 GiB"), "{drawn:?}");
    assert!(pieces.len() > 3 && pieces[1].starts_with("\r[#########"), "{drawn:?}");
    assert!(!drawn.contains('\n'), "{drawn:?}");
}
