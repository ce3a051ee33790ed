//! A node that answers by a script, on a Unix socket, and the program that asks it.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Nothing here takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What was asked, and how it is answered: status and JSON; `None`: the connection is closed without a word.
pub type Script = Box<dyn FnMut(&str, &Value) -> Option<(u16, Value)> + Send>;

/// A scripted node in a folder of its own. Its thread ends with the test's process.
pub struct Node {
    pub root: PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// Answers each request by `script`, that is given `METHOD /path` and the body.
    pub fn new(script: Script) -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("muskox-cli-{}-{count}", std::process::id()));
        std::fs::create_dir_all(root.join("run/muskox")).unwrap();
        let listener = UnixListener::bind(root.join("run/muskox/node.sock")).unwrap();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let (log, mut script) = (Arc::clone(&heard), script);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &log, &mut script);
            }
        });
        Self { root, heard }
    }

    /// Everything that was asked, in order.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until that was asked.
    pub fn wait_for(&self, request: &str) {
        let begun = Instant::now();
        while !self.heard().iter().any(|heard| heard == request) {
            assert!(begun.elapsed() < PATIENCE, "'{request}' was never asked: {:?}", self.heard());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The program, about to ask this node.
    pub fn muskox(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muskox"));
        command.args(words.split_whitespace()).arg("--root").arg(&self.root).env("TMPDIR", &self.root);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, words: &str) -> Came {
        Came::of(self.muskox(words).spawn().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Came {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Came {
    /// Waits for the end; a program that does not come to one is killed.
    pub fn of(mut child: Child) -> Self {
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("it did not end: {:?}", child.wait_with_output());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // What it printed here is less than a pipe holds.
        let output = child.wait_with_output().unwrap();
        Self {
            code: output.status.code().expect("no signal ended it"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Presses Ctrl-C.
pub fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A problem as the wire has it.
pub fn problem(code: &str, text: &str, hint: &str) -> Value {
    json!({"type": format!("urn:muskox:problem:{code}"), "title": "", "status": 400, "detail": text, "code": code, "hint": hint})
}

fn answer(stream: UnixStream, log: &Mutex<Vec<String>>, script: &mut Script) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let Some(request) = first.trim_end().strip_suffix(" HTTP/1.1").map(str::to_owned) else { return };
    let (mut len, mut upgrade) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        upgrade |= line == "upgrade: muskox-console";
        match line.strip_prefix("content-length: ") {
            Some(text) => len = text.parse().unwrap(),
            None if line.is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    log.lock().unwrap().push(request.clone());
    let Some((status, reply)) = script(&request, &body) else { return };
    let mut stream = stream;
    if upgrade && status == 101 {
        return console(reader, stream);
    }
    let text = reply.to_string();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
    // Who was interrupted does not read it.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(text.as_bytes()));
}

/// A guest that greets and says what it hears in capitals, until its visitor leaves.
fn console(mut typed: BufReader<UnixStream>, mut shown: UnixStream) {
    let head = "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: muskox-console\r\n\r\nlogin: ";
    shown.write_all(head.as_bytes()).unwrap();
    let mut byte = [0];
    while let Ok(1) = typed.read(&mut byte) {
        shown.write_all(&byte.to_ascii_uppercase()).unwrap();
    }
}
