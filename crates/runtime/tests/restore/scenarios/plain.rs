//! Containers that are none of our business.

use super::*;

pub fn plain_calls_are_the_runtimes(_: &World) {
    for arguments in [
        &["--version"][..],
        &["state", "no-such"],
        &["--nonsense"],
        &["kill", "no-such", "KILL"],
        &["list", "-f", "json"],
        &["create"],
        &["delete", "-f", "no-such"],
    ] {
        let (ours, theirs) = (run(WRAPPER, arguments), run(RUNC, arguments));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).split_whitespace().filter(|word| !word.starts_with("time=")).collect::<Vec<_>>().join(" ");
        assert_eq!(
            (ours.status.code(), text(&ours.stdout), text(&ours.stderr)),
            (theirs.status.code(), text(&theirs.stdout), text(&theirs.stderr)),
            "{arguments:?}"
        );
    }
    // Descriptors, environment, signal dispositions and arguments, seen by a runtime that prints them.
    let probe = "/tmp/probe";
    fs::write(probe, "#!/usr/bin/python3\nimport os,sys\nprint(sys.argv[1:],sorted(os.environ.items()),sorted(int(f) for f in os.listdir('/proc/self/fd'))[:-1],os.getcwd(),[l for l in open('/proc/self/status') if l[:3]=='Sig' and l[3]!='Q'])\nprint(os.read(9,5) if os.path.exists('/proc/self/fd/9') else '')\nsys.exit(42)\n").unwrap();
    must("chmod", &["755", probe]);
    let _configured = Configured::runtime(probe);
    for trap in ["", "PIPE", "HUP"] {
        let script = |program: &str| {
            format!("trap '' {trap}; exec 9<<<hello 7>/dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec {program} --root /x state '' 'a b'").replace("trap '' ;", "")
        };
        let call = |program: &str| Command::new("bash").args(["-c", &script(program)]).stdin(Stdio::null()).output().unwrap();
        let (ours, theirs) = (call(WRAPPER), call(probe));
        let strip = |bytes: &[u8]| {
            // The pid differs, of course.
            let text = String::from_utf8_lossy(bytes).into_owned();
            let at = text.find("LISTEN_PID").unwrap_or(0);
            let end = text[at..].find(')').map_or(at, |end| at + end);
            format!("{}{}", &text[..at], &text[end..]).replace(WRAPPER, probe)
        };
        assert_eq!(ours.status.code(), Some(42));
        assert!(!ours.stdout.is_empty());
        assert_eq!(strip(&ours.stdout), strip(&theirs.stdout), "SIG{trap} ignored");
    }
}

pub fn overhead(_: &World) {
    let pod = Pod::new("uid-overhead");
    let mut container = Container::new(&pod, "overhead", None);
    container.created(WRAPPER);
    let time = |program: &str| {
        let begin = Instant::now();
        let output = run(program, &["state", "overhead"]);
        assert!(output.status.success());
        begin.elapsed()
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        theirs.push(time(RUNC));
        ours.push(time(WRAPPER));
    }
    ours.sort();
    theirs.sort();
    let best = (ours[20], theirs[20]);
    let (ours, theirs) = (ours[100], theirs[100]);
    println!("       state: runc {:.2} ms, through the wrapper {:.2} ms (medians of 200): +{:.2} ms", ms(theirs), ms(ours), ms(ours) - ms(theirs));
    // The median suffers from whatever else the machine does; the best tenth tells what the wrapper itself costs.
    assert!(best.0 < best.1 + Duration::from_millis(2), "{best:?}");
    container.delete();
}

pub fn plain_container(world: &World) {
    let pod = Pod::new("uid-plain");
    let mut container = Container::new(&pod, "plain", None);
    container.created(WRAPPER);
    must(WRAPPER, &["start", "plain"]);
    until("it counts", || container.count() > 5);
    must(WRAPPER, &["kill", "plain", "TERM"]);
    assert_eq!(container.exit_code(), 3);
    assert!(world.agent.asked("plain", "create").is_empty());
    container.delete();
    // Of a pod that names a migration, but the agent says it is none of its business.
    world.agent.answer("agreed", "create", Reply::Plain);
    let mut container = Container::new(&pod, "agreed", Some("m"));
    container.created(WRAPPER);
    must(WRAPPER, &["start", "agreed"]);
    until("it counts", || container.first() == 1);
    container.delete();
}

pub fn consumed_is_plain(world: &World) {
    let pod = Pod::new("uid-consumed");
    fs::create_dir_all(CONSUMED).unwrap();
    fs::write(Path::new(CONSUMED).join("uid-consumed"), "").unwrap();
    let mut container = Container::new(&pod, "consumed", Some("m"));
    world.agent.close();
    container.created(WRAPPER);
    world.agent.open();
    must(WRAPPER, &["start", "consumed"]);
    until("it starts afresh", || container.first() == 1);
    container.delete();
}
