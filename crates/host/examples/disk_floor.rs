//! What one 4 KiB operation costs per engine: `cargo run --release -p host --example disk_floor -- FOLDER...`
//!
//! Random blocks of a 256 MiB file in each folder, 1 and 32 operations in flight, a fixed time a row. CPU is that of
//! the whole process, worker threads included.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures of a bench fit")]

use block::{Disk, Durability, IoBuf};
use host::disk::{Engine, Options, prepare};
use host::runtime::block_on;
use rustix::time::{ClockId, clock_gettime};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};
use units::ByteOffset;

const BLOCKS: u64 = 1 << 16;
const BLOCK_BYTES: usize = 4096;
const ROW_TIME: Duration = Duration::from_millis(700);

fn main() {
    println!(
        "{:<10} {:<7} {:<6} {:>3} {:>9} {:>12} {:>12}",
        "folder", "engine", "what", "q", "kIOPS", "CPU ns/op", "wall ns/op"
    );
    for folder in std::env::args().skip(1) {
        let path = Path::new(&folder).join(format!("muskox-disk-floor-{}", std::process::id()));
        std::fs::write(&path, vec![7; BLOCK_BYTES * BLOCKS as usize]).expect("256 MiB in the folder");
        std::fs::File::open(&path).and_then(|file| file.sync_all()).expect("written");
        for engine in [Engine::Ring, Engine::Pool, Engine::Inline] {
            for write in [false, true] {
                for in_flight in [1, 32] {
                    row(&folder, &path, engine, write, in_flight);
                }
            }
        }
        std::fs::remove_file(&path).expect("our own file");
    }
}

fn row(folder: &str, path: &Path, engine: Engine, write: bool, in_flight: usize) {
    let (begun, cpu_begun) = (Instant::now(), cpu_ns());
    let work = async |_| {
        let disk = prepare(path, Options { engine: Some(engine), read_only: false });
        let disk = disk.and_then(host::disk::Opened::into_disk).expect("a disk");
        let (done, state) = (Rc::new(Cell::new(0_u64)), Rc::new(Cell::new(0x9e37_79b9_7f4a_7c15_u64)));
        let tasks = (0..in_flight).map(|_| {
            tokio::task::spawn_local(one_in_flight(Rc::clone(&disk), write, begun, Rc::clone(&done), Rc::clone(&state)))
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("a task that works");
        }
        done.get()
    };
    let done = block_on(work).expect("a loop");
    let (wall, cpu) = (begun.elapsed().as_nanos() as u64, cpu_ns() - cpu_begun);
    let what = if write { "write" } else { "read" };
    println!(
        "{folder:<10} {:<7} {what:<6} {in_flight:>3} {:>9} {:>12} {:>12}",
        format!("{engine:?}"),
        done * 1_000_000 / wall,
        cpu / done,
        wall / done
    );
}

async fn one_in_flight(disk: Disk, write: bool, begun: Instant, done: Rc<Cell<u64>>, state: Rc<Cell<u64>>) {
    let data = IoBuf::zeroed(BLOCK_BYTES).freeze();
    while begun.elapsed() < ROW_TIME {
        let random = state.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.set(random);
        let at = ByteOffset((random >> 33) % BLOCKS * BLOCK_BYTES as u64);
        if write {
            disk.write(at, data.clone(), Durability::Cached).await.expect("a write");
        } else {
            disk.read(at, IoBuf::new(BLOCK_BYTES)).await.expect("a read");
        }
        done.set(done.get() + 1);
    }
}

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}
