//! Memory that travelled while the source ran: dumped behind the veil, restored by the pager, or as CRIU's own chain of images.

use std::collections::BTreeMap;

use godwit_criu::images::chain::{self, ByProcess, Level};
use godwit_memory::{
    Range, flags,
    index::Known,
    pager, read,
    store::Store,
    tracker::{Last, Tracker},
};
use godwit_veil::{Hidden, encode, smaps_of};

use super::*;
use crate::lab::{dump_behind, freeze};

/// 64 MiB of pages that are known by their contents; some change, some become zeros. A child checks its own.
const APP: &str = r#"
import os,time
P=4096; N=16384
m=bytearray(N*P); v=[1]*N; x=12345
def content(i): return bytes(P) if v[i]==0 else (i.to_bytes(8,'little')+v[i].to_bytes(8,'little'))*256
def below(n):
    global x
    x=(x*6364136223846793005+1442695040888963407)%(1<<64); return (x>>33)%n
for i in range(N): m[i*P:i*P+P]=content(i)
child=os.fork()
n=0; at=below(N)
while True:
    n+=1
    for _ in range(200):
        i=below(N); v[i]=0 if below(20)==0 else v[i]+1; m[i*P:i*P+P]=content(i)
    for _ in range(600):
        at=(at+1)%N
        if m[at*P:at*P+P]!=content(at): print('bad page',at,v[at],'child' if child==0 else 'parent',flush=True); os._exit(9)
    if child: print('count',n,flush=True)
    time.sleep(0.01)
"#;

struct Moved {
    _pod: Pod,
    images: PathBuf,
    store: PathBuf,
    counted: u64,
    list: ByProcess,
    pages: Store,
}

fn veil() -> Option<String> {
    let veil = std::env::var("GODWIT_VEIL_LIBRARY").ok();
    if veil.is_none() {
        println!("       skipped: GODWIT_VEIL_LIBRARY does not name the veil");
    }
    veil
}

/// Lets a source run, takes its memory in rounds, freezes and dumps it.
fn move_source(id: &str) -> Option<Moved> {
    let veil = veil()?;
    let pod = Pod::new(&format!("uid-{id}"));
    let mut source = Container::new(&pod, id, None);
    fs::write(source.bundle.join("rootfs/app.py"), APP).unwrap();
    source.created(RUNC);
    must(RUNC, &["start", id]);
    let end = Instant::now() + Duration::from_secs(60);
    while source.count() <= 5 {
        assert!(Instant::now() < end, "the source does not count: {:?}", source.lines());
        sleep(Duration::from_millis(20));
    }
    let images = Path::new(WORK).join(format!("{id}-images"));
    let store = images.with_extension("store");
    let mut pages = Store::new(&store).unwrap();
    let init: i32 = serde_json::from_str::<serde_json::Value>(&must(RUNC, &["state", id])).unwrap()["pid"].as_i64().unwrap().try_into().unwrap();
    let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
    let pids: Vec<i32> = std::iter::once(init).chain(children.split_whitespace().map(|pid| pid.parse().unwrap())).collect();
    let inside = |pid: i32| -> i32 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap().split_whitespace().last().unwrap().parse().unwrap()
    };
    let mut trackers: Vec<(i32, Tracker)> = pids.iter().map(|pid| (inside(*pid), Tracker::attach(*pid, None).unwrap())).collect();
    let take = |pages: &mut Store, level: usize, inside: i32, tracker: &mut Tracker, ranges: &[Range]| {
        read::pages(tracker.pid, ranges, &mut tracker.index, |piece| pages.put(level, inside, &piece.ranges, &piece.data)).unwrap();
    };
    for _ in 0..4 {
        let level = pages.begin().unwrap();
        for (inside, tracker) in &mut trackers {
            let changed = tracker.round().unwrap();
            take(&mut pages, level, *inside, tracker, &changed);
        }
        sleep(Duration::from_millis(100));
    }
    freeze(&source);
    let level = pages.begin().unwrap();
    let mut lasts: Vec<(i32, Last)> = Vec::new();
    for (inside, tracker) in &mut trackers {
        let last = tracker.last().unwrap();
        take(&mut pages, level, *inside, tracker, &last.changed);
        lasts.push((tracker.pid, last));
    }
    let hidden: Vec<Hidden> = lasts
        .iter()
        .flat_map(|(pid, last)| {
            let pid = u64::try_from(*pid).unwrap();
            last.veiled().map(move |(range, unguarded)| Hidden { pid, start: range.start, end: range.end, unguarded: unguarded.into() })
        })
        .collect();
    let table = images.with_extension("veil");
    fs::write(&table, encode(&hidden)).unwrap();
    let told = flags::probe().is_ok();
    for (pid, _) in lasts.iter().filter(|_| told) {
        // A name for a mapping without one makes no difference to CRIU, but is in its log.
        let text = flags::smaps(*pid).unwrap().replacen(" rw-p 00000000 00:00 0 \n", " rw-p 00000000 00:00 0 [anon:shown]\n", 1);
        fs::write(smaps_of(&table, *pid), text).unwrap();
    }
    let time = dump_behind(&pod, &source, &images, &[("LD_PRELOAD", &veil), (godwit_veil::VARIABLE, table.to_str().unwrap())]);
    if told {
        let log = fs::read_to_string(images.with_extension("dump").join("dump.log")).unwrap();
        assert_eq!(log.matches("[anon:shown]").count(), lasts.len(), "CRIU has read smaps itself");
    } else {
        println!("       not looked at: flags of mappings without smaps: {}", flags::probe().unwrap_err());
    }
    let length: u64 = fs::read_dir(&images)
        .unwrap()
        .flatten()
        .filter(|file| file.file_name().to_str().unwrap().starts_with("pages-"))
        .map(|file| file.metadata().unwrap().len())
        .sum();
    println!("       dumped in {} ms, {} kB of pages in CRIU's images, {} kB in the store", time.as_millis(), length >> 10, pages.bytes() >> 10);
    assert!(length < 32 << 20, "CRIU has written {length} bytes of pages: the veil does not hide");
    let dumped = chain::present(&images).unwrap();
    let mut list = ByProcess::new();
    for ((inside, tracker), (_, last)) in trackers.iter().zip(&lasts) {
        assert!(tracker.index.pick(&last.pages, Known::No).is_empty());
        let pages: Vec<(u64, u64)> = tracker.index.pick(&last.pages, Known::Stored).iter().map(|range| (range.start, range.end)).collect();
        let overlap = dumped[inside].iter().any(|(start, end)| pages.iter().any(|page| page.0 < *end && *start < page.1));
        assert!(!overlap, "CRIU has written pages that are in the store");
        list.insert(*inside, pages);
    }
    let counted = source.count();
    // The source never runs again.
    Some(Moved { _pod: pod, images, store, counted, list, pages })
}

fn ranges(list: &ByProcess) -> BTreeMap<i32, Vec<Range>> {
    list.iter().map(|(process, pages)| (*process, pages.iter().map(|(start, end)| Range { start: *start, end: *end }).collect())).collect()
}

fn arrives(world: &World, moved: &Moved, id: &str, store: Option<PathBuf>) -> (Pod, Container, Duration) {
    let (pod, container) = world.keeper(id);
    world.agent.answer_once(id, "keeper", Reply::Restore { images: moved.images.clone(), criu: vec!["timeout=20".into()], store });
    world.agent.wait(id, "images", 1);
    let begin = Instant::now();
    world.agent.answer(id, "images", Reply::Go);
    world.agent.wait(id, "gate", 1);
    let time = begin.elapsed();
    world.agent.answer(id, "gate", Reply::Go);
    world.agent.wait(id, "restored", 1);
    // Every page is looked at at least twice.
    let end = Instant::now() + Duration::from_secs(60);
    while container.count() <= moved.counted + 60 {
        let lines = container.lines();
        assert!(!lines.iter().any(|line| line.starts_with("bad")) && Instant::now() < end, "{lines:?}");
        sleep(Duration::from_millis(20));
    }
    assert!(container.first() > moved.counted && container.first() <= moved.counted + 2, "{} after {}", container.first(), moved.counted);
    (pod, container, time)
}

pub fn memory_is_filled_while_it_runs(world: &World) {
    let Some(moved) = move_source("filling") else { return };
    let (lazy, eager) = chain::split(&moved.images, moved.list.clone()).unwrap();
    assert!(eager.is_empty() && lazy.len() == 2);
    chain::keep_own(&moved.images).unwrap();
    chain::apart(&moved.images, &[&lazy]).unwrap();
    pager::write_table(&moved.store, &moved.pages.rows(&ranges(&lazy)).unwrap()).unwrap();
    let (_pod, container, time) = arrives(world, &moved, "filled", Some(moved.store.clone()));
    let log = fs::read_to_string(Path::new(godwit_runtime::protocol::CONTAINERS).join("filled/attempt-1/work/pager.log")).unwrap_or_default();
    println!("       restored to the gate in {} ms; {}", time.as_millis(), log.trim());
    assert!(log.starts_with("filled "), "{log}");
    container.delete();
}

pub fn memory_comes_as_a_chain(world: &World) {
    let Some(moved) = move_source("chaining") else { return };
    let tables = moved.pages.tables(&ranges(&moved.list)).unwrap();
    let levels: Vec<Level> = tables
        .into_iter()
        .map(|table| {
            let processes = table.processes.into_iter();
            let processes = processes.map(|(process, parts)| (process, parts.iter().map(|part| ((part.range.start, part.range.end), part.here)).collect()));
            Level { directory: table.directory, processes: processes.collect() }
        })
        .collect();
    chain::link(&moved.images, &moved.list, &levels).unwrap();
    let (_pod, container, time) = arrives(world, &moved, "chained", None);
    println!("       restored to the gate in {} ms", time.as_millis());
    container.delete();
}

pub fn a_pager_that_dies_takes_the_container_along(world: &World) {
    let Some(moved) = move_source("dying") else { return };
    let (lazy, _) = chain::split(&moved.images, moved.list.clone()).unwrap();
    chain::keep_own(&moved.images).unwrap();
    chain::apart(&moved.images, &[&lazy]).unwrap();
    // The table speaks of pages that the file does not have: as if the store had been damaged since.
    let mut rows = moved.pages.rows(&ranges(&lazy)).unwrap();
    if let Some(row) = rows.last_mut() {
        row.offset = 1 << 40;
    }
    pager::write_table(&moved.store, &rows).unwrap();
    let id = "widowed";
    let (_pod, container) = world.keeper(id);
    world.agent.answer_once(id, "keeper", Reply::Restore { images: moved.images.clone(), criu: vec!["timeout=20".into()], store: Some(moved.store.clone()) });
    world.agent.wait(id, "images", 1);
    world.agent.answer(id, "images", Reply::Go);
    let (code, output) = world.restored(id, 1);
    assert_ne!(code, 0, "{output}");
    nothing_ran(&container);
    container.delete();
}

/// Where CRIU has no PAGEMAP_SCAN it reads the pagemap by `pread`: asked here by another program in its place, since this kernel has it.
pub fn a_pagemap_that_is_read_is_veiled(_: &World) {
    let Some(veil) = veil() else { return };
    let memory = vec![1u8; 64 * 4096];
    let start = (memory.as_ptr() as u64).next_multiple_of(4096);
    let (own, table) = (std::process::id(), Path::new(WORK).join("pread.veil"));
    fs::write(&table, encode(&[Hidden { pid: own.into(), start: start + 8 * 4096, end: start + 24 * 4096, unguarded: 0 }])).unwrap();
    let count = "import os,sys\nf=os.open(f'/proc/{sys.argv[1]}/pagemap',os.O_RDONLY)\nb=os.pread(f,32*8,int(sys.argv[2])//4096*8)\nprint(''.join('x' if any(b[i:i+8]) else '.' for i in range(0,len(b),8)))";
    let mut reader = Command::new("python3");
    reader.args(["-c", count, &own.to_string(), &start.to_string()]).env("LD_PRELOAD", veil).env(godwit_veil::VARIABLE, &table);
    let said = reader.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "xxxxxxxx................xxxxxxxx", "{}", String::from_utf8_lossy(&said.stderr));
    drop(std::hint::black_box(memory));
}

/// Only of processes for which there is something to show, and only where a process's directory is at hand, as CRIU has it.
pub fn smaps_are_shown(_: &World) {
    let Some(veil) = veil() else { return };
    let table = Path::new(WORK).join("smaps.veil");
    let shown = std::process::id();
    fs::write(&table, encode(&[])).unwrap();
    fs::write(smaps_of(&table, shown.cast_signed()), "shown").unwrap();
    let read = "import os,sys\nfor word in sys.argv[1:]:\n d=os.open('/proc/'+word,os.O_PATH)\n print(os.read(os.open('smaps',os.O_RDONLY,dir_fd=d),9).decode().split('-')[0],len(os.read(os.open('maps',os.O_RDONLY,dir_fd=d),9)))\nprint(open(f'/proc/{sys.argv[1]}/smaps').read(9)!='shown')";
    let mut reader = Command::new("python3");
    reader.args(["-c", read, &shown.to_string(), "self"]).env("LD_PRELOAD", veil).env(godwit_veil::VARIABLE, &table);
    let said = reader.output().unwrap();
    let said = (String::from_utf8_lossy(&said.stdout).into_owned(), String::from_utf8_lossy(&said.stderr).into_owned());
    let lines: Vec<&str> = said.0.lines().collect();
    assert!(lines.len() == 3 && lines[0] == "shown 9" && !lines[1].starts_with("shown") && lines[1].ends_with(" 9") && lines[2] == "True", "{said:?}");
}
