//! A running pod is kept as it is at one instant and goes on; new pods made of that, on both nodes, with the old one there and without, have its memory and files.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::load::Load;
use godwit_demo::objects::{Pod, container};
use godwit_demo::pods;
use godwit_demo::shell::{Output, wait_until};
use godwit_e2e::case::{Good, MINUTE};
use godwit_e2e::faults::Order;
use godwit_e2e::road::renew;
use godwit_e2e::user::User;
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

pub const SCENARIO: Scenario =
    Scenario::new("checkpoint", "A checkpoint of a running pod is kept; pods made of it have its memory and files, on both nodes.", run).each_class();

/// Where the lab's installation keeps checkpoints: lab/godwit/values.yaml.
pub const STORE: &str = "/srv/shared/checkpoints";
/// Counts, and says who it is: `good TURN IDENTITY`, as [`Case::good`] reads it.
pub const COUNTER: &str = "trap 'exit 0' TERM USR1; id=$(cat /proc/sys/kernel/random/uuid); i=0; while :; do i=$((i+1)); echo good $i $id; sleep 0.1; done";
const KEYS: u32 = 1000;

fn run(case: &Case) -> Result<()> {
    store(case)?;
    let pod = start(case)?;
    let load = Load::start(server(case, &pod)?, KEYS)?;
    load.wait_for_rounds(100, MINUTE)?;
    let kept = keep(case, &pod, &load)?;
    restored(case, &pod, &kept, &["--name", "beside", "--node", &case.pair.a], "beside", &case.pair.a)?;
    restored(case, &pod, &kept, &["--node", &case.pair.b], "kept-r1", &case.pair.b)?;
    load.wait_for_rounds(100, MINUTE)?;
    let (proof, seen) = load.finish()?;
    ensure!(seen.reconnects == 0, "the client of the old pod lost its connection {} times when copies of it were made", seen.reconnects);
    ensure!(proof.missing == 0 && proof.damaged == 0, "{proof:?}");
    refused(case, &pod, &kept)?;
    case.goes_on(&pod, "counter", &kept.after)?;
    case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, &pod, "--wait=true", "--timeout=50s"])?;
    restored(case, &pod, &kept, &["--name", &pod, "--node", &case.pair.a], &pod, &case.pair.a)?;
    crash_of_restored(case, &pod)?;
    interrupted(case)?;
    retention(case)?;
    damaged(case, &kept)
}

/// Makes the store, if it is not there.
pub fn store(case: &Case) -> Result<()> {
    for node in [&case.pair.a, &case.pair.b] {
        case.lab
            .script_on_node(node, &format!("mountpoint -q /srv/shared && mkdir -p {STORE}"))
            .context("the lab's nodes have no /srv/shared: godwit-lab up")?;
    }
    Ok(())
}

/// What a checkpoint is compared with.
struct Kept {
    name: String,
    /// The counter before and after.
    before: Good,
    after: Good,
    /// Of the Redis.
    run_id: String,
}

fn start(case: &Case) -> Result<String> {
    let mut redis = container("redis", &["redis-server", "--protected-mode", "no", "--save", ""]);
    redis["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let pod = Pod::new("kept", [redis, container("counter", &["sh", "-c", COUNTER])]).with("volumes", json!([{"name": "data", "emptyDir": {}}]));
    case.start(pod)
}

fn server(case: &Case, pod: &str) -> Result<SocketAddr> {
    let object = case.pod(pod)?;
    Ok(SocketAddr::new(object["status"]["podIP"].as_str().context("no address")?.parse()?, 6379))
}

fn redis(case: &Case, pod: &str, words: &[&str]) -> Result<String> {
    let mut command = vec!["redis-cli"];
    command.extend(words);
    Ok(case.exec(pod, "redis", &command)?.trim().to_owned())
}

fn run_id(case: &Case, pod: &str) -> Result<String> {
    let info = redis(case, pod, &["info", "server"])?;
    Ok(info.lines().find_map(|line| line.strip_prefix("run_id:")).context("no run_id")?.trim().to_owned())
}

/// Every file of the pod says `word`, and so does its memory.
fn mark(case: &Case, pod: &str, word: &str) -> Result<()> {
    redis(case, pod, &["set", "word", word])?;
    for container in ["redis", "counter"] {
        case.exec(pod, container, &["sh", "-c", &format!("echo {word} > /root/word; rm -f /etc/debian_version")])?;
    }
    case.exec(pod, "redis", &["sh", "-c", &format!("echo {word} > /data/word")]).map(drop)
}

fn words(case: &Case, pod: &str) -> Result<Vec<String>> {
    let cat = |container: &str, file: &str| case.exec(pod, container, &["cat", file]).map(|text| text.trim().to_owned());
    Ok(vec![redis(case, pod, &["get", "word"])?, cat("redis", "/root/word")?, cat("counter", "/root/word")?, cat("redis", "/data/word")?])
}

pub fn ok(output: Output) -> Result<String> {
    ensure!(output.code == 0, "exit code {}:\n{}{}", output.code, output.stdout, output.stderr);
    Ok(output.stdout)
}

fn keep(case: &Case, pod: &str, load: &Load) -> Result<Kept> {
    mark(case, pod, "then")?;
    let (before, run_id, marks) = (case.good(pod, "counter", 0)?, run_id(case, pod)?, pods::marks(&case.pod(pod)?));
    let text = ok(case.kubectl_migrate(&["checkpoint", pod, "--name", "first"])?)?;
    ensure!(text.contains("checkpoint first of pod kept"), "it says:\n{text}");
    let after = case.goes_on(pod, "counter", &before)?;
    ensure!(pods::marks(&case.pod(pod)?) == marks, "containers of {pod} changed");
    load.wait_for_rounds(50, MINUTE)?;
    mark(case, pod, "now")?;
    let object = case.lab.get(&["podcheckpoint", "-n", &case.namespace, "first"])?;
    let status = &object["status"];
    ensure!(status["phase"] == "Complete" && status["containers"].as_array().is_some_and(|all| all.len() == 2), "{status}");
    case.note(format!("freeze {} ms", status["freezeMs"]));
    let path = format!("{STORE}/{}", status["path"].as_str().context("no path")?);
    let open = case.lab.script_on_node(&case.pair.b, &format!("test -s {path}/index.json; find {path} -type f ! -perm 600 -o -type d ! -perm 700"))?;
    ensure!(open.trim().is_empty(), "others may read:\n{open}");
    let listed = ok(case.kubectl_migrate(&["checkpoints"])?)?;
    ensure!(listed.contains("first") && listed.contains("Complete"), "it lists:\n{listed}");
    let described = ok(case.kubectl_migrate(&["checkpoints", "describe", "first"])?)?;
    ensure!(described.contains("counter: 2 processes") || described.contains("counter: 1 process"), "it describes:\n{described}");
    ensure!(case.lab.kubectl(&["get", "podcheckpoints", "-n", &case.namespace])?.contains("Complete"), "kubectl get shows no phase");
    Ok(Kept { name: "first".into(), before, after, run_id })
}

/// A pod is made of the checkpoint: it goes on from there.
fn restored(case: &Case, origin: &str, kept: &Kept, arguments: &[&str], name: &str, node: &str) -> Result<()> {
    let mut all = vec!["restore", kept.name.as_str()];
    all.extend(arguments);
    let text = ok(case.kubectl_migrate(&all)?)?;
    ensure!(text.contains(&format!("pod {name} runs on {node}")), "it says:\n{text}");
    let object = case.ready(name)?;
    ensure!(pods::node(&object) == node, "{name} runs on {}", pods::node(&object));
    let counter = case.goes_on(name, "counter", &kept.before)?;
    let first = case.logs(name, "counter")?;
    let first: u64 = first.lines().next().and_then(|line| line.split(' ').nth(1)).context("the counter has written nothing")?.parse()?;
    ensure!(
        first > kept.before.turn && first <= kept.after.turn + 10,
        "{name} goes on from turn {first}, the checkpoint is between {:?} and {:?}",
        kept.before,
        kept.after
    );
    ensure!(words(case, name)? == ["then"; 4], "{name} says {:?}", words(case, name)?);
    ensure!(run_id(case, name)? == kept.run_id, "{name} has another Redis");
    let gone = case.exec(name, "redis", &["sh", "-c", "test -e /etc/debian_version || echo gone"])?;
    ensure!(gone.trim() == "gone", "a file that was removed is there again");
    case.goes_on(name, "counter", &counter)?;
    let object = case.pod(name)?;
    ensure!(pods::restarts(&object) == 0, "containers of {name} were restarted: {}", object["status"]["containerStatuses"]);
    if origin != name {
        ensure!(words(case, origin)? == ["now"; 4], "the old pod says {:?}", words(case, origin)?);
    }
    Ok(())
}

/// What is not possible is refused by name, and no pod is left of it.
fn refused(case: &Case, pod: &str, kept: &Kept) -> Result<()> {
    let before = case.standing_pods()?.len();
    let first = kept.name.as_str();
    let orders: [(&[&str], &str); 5] = [
        (&["restore", "nothing"], "CheckpointUnknown"),
        (&["restore", first, "--name", "beside"], "PodExists"),
        (&["restore", first, "--node", "nowhere"], "NodeNotFound"),
        (&["checkpoint", "nobody"], "PodNotFound"),
        (&["checkpoint", "beside-host"], "HostPath"),
    ];
    let host = Pod::new("beside-host", [container("main", &["sleep", "1000"])]).with("volumes", json!([{"name": "v", "hostPath": {"path": "/tmp"}}]));
    case.start(host)?;
    for (order, reason) in orders {
        expect(&case.kubectl_migrate(order)?, reason)?;
    }
    case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, "beside-host", "--wait=true", "--timeout=50s"])?;
    let rules = json!([
        {"apiGroups": ["godwit.dev"], "resources": ["podcheckpoints", "podrestores"], "verbs": ["create", "get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    ]);
    let user = User::with(case, "onlooker", &rules)?;
    for (order, missing) in [(["checkpoint", pod], "pods/exec"), (["restore", first], "create pods")] {
        let output = case.kubectl_migrate(&[order[0], order[1], "--kubeconfig", &user.kubeconfig()])?;
        let text = format!("{}{}", output.stdout, output.stderr);
        ensure!(output.code == 5 && text.contains(missing), "exit code {}:\n{text}", output.code);
    }
    let now = case.standing_pods()?.len();
    ensure!(now == before, "there were {before} pods, now there are {now}");
    Ok(())
}

pub fn expect(output: &Output, reason: &str) -> Result<()> {
    let text = format!("{}{}", output.stdout, output.stderr);
    ensure!(output.code == 1 && text.contains(reason) && text.contains("What to do"), "exit code {}, wanted {reason}:\n{text}", output.code);
    Ok(())
}

/// A container of a restored pod that ends is started afresh, as in any pod.
fn crash_of_restored(case: &Case, pod: &str) -> Result<()> {
    let before = case.good(pod, "counter", 0)?;
    case.exec(pod, "counter", &["sh", "-c", "kill -TERM 1"])?;
    wait_until("the counter starts afresh", MINUTE, || {
        let object = case.pod(pod)?;
        Ok((pods::restarts(&object) == 1 && pods::is_ready(&object)).then_some(()))
    })?;
    let after = case.good(pod, "counter", 0)?;
    ensure!(after.rest != before.rest, "it is the same process");
    Ok(())
}

/// Whatever ends the work, the pod goes on; what failed leaves nothing.
fn interrupted(case: &Case) -> Result<()> {
    let pod = case.start(Pod::new("steady", [container("counter", &["sh", "-c", COUNTER])]))?;
    for point in ["agent.checkpoint.frozen", "agent.checkpoint.store"] {
        let before = case.good(&pod, "counter", 0)?;
        let _fault = case.fault(&case.pair.a, point, Order::Fail)?;
        expect(&case.kubectl_migrate(&["checkpoint", &pod])?, "NodeError")?;
        case.goes_on(&pod, "counter", &before)?;
    }
    let left = case.lab.script_on_node(&case.pair.a, &format!("find {STORE}/{} -mindepth 1 -maxdepth 1 ! -name 'first-*'", case.namespace))?;
    ensure!(left.trim().is_empty(), "of those that failed there is left:\n{left}");
    crashed(case, &pod, &[])?;
    let restore = case.fault(&case.pair.b, "agent.restore.verify", Order::Fail)?;
    expect(&case.kubectl_migrate(&["restore", "after-a-crash", "--name", "never", "--node", &case.pair.b])?, "NodeError")?;
    ensure!(restore.fired()?, "nobody has failed");
    pods::wait_gone(&case.lab, &case.namespace, "never", case.patience())
}

/// The agent ends while the pod stands still: the next one lets it go on, and makes the checkpoint `after-a-crash`. Its pod has a container `counter`.
pub fn crashed(case: &Case, pod: &str, options: &[&str]) -> Result<()> {
    let before = case.good(pod, "counter", 0)?;
    let crash = case.fault(&case.pair.a, "agent.checkpoint.frozen", Order::Crash)?;
    let order = [&["checkpoint", pod, "--name", "after-a-crash", "--no-wait"], options].concat();
    ok(case.kubectl_migrate(&order)?)?;
    crash.wait(MINUTE)?;
    wait_until("the checkpoint is complete", MINUTE * 3, || {
        let status = &case.lab.get(&["podcheckpoint", "-n", &case.namespace, "after-a-crash"])?["status"];
        ensure!(status["phase"] != "Failed", "{}", status["failure"]);
        Ok((status["phase"] == "Complete").then_some(()))
    })?;
    case.goes_on(pod, "counter", &before)?;
    ensure!(pods::restarts(&case.pod(pod)?) == 0, "{pod} was restarted");
    renew(case)
}

/// Older ones go when a newer one says so; a TTL passes; what is deleted is deleted on disk.
fn retention(case: &Case) -> Result<()> {
    let gone = |name: &str| {
        wait_until(&format!("checkpoint {name} is gone"), MINUTE, || {
            Ok(case.lab.find(&["podcheckpoint", "-n", &case.namespace, name])?.is_none().then_some(()))
        })
    };
    ok(case.kubectl_migrate(&["checkpoint", "steady", "--name", "newest", "--keep", "1"])?)?;
    gone("after-a-crash")?;
    ok(case.kubectl_migrate(&["checkpoint", "steady", "--name", "brief", "--ttl", "1s"])?)?;
    gone("brief")?;
    ok(case.kubectl_migrate(&["checkpoints", "delete", "newest"])?)?;
    let left = case.lab.script_on_node(&case.pair.b, &format!("find {STORE}/{} -mindepth 1 -maxdepth 1 ! -name 'first-*'", case.namespace))?;
    ensure!(left.trim().is_empty(), "of those that were deleted there is left:\n{left}");
    Ok(())
}

/// What was changed after it was made is not restored.
fn damaged(case: &Case, kept: &Kept) -> Result<()> {
    let object = case.lab.get(&["podcheckpoint", "-n", &case.namespace, &kept.name])?;
    let path = format!("{STORE}/{}", object["status"]["path"].as_str().context("no path")?);
    let restore = |reason: &str| {
        expect(&case.kubectl_migrate(&["restore", &kept.name, "--name", "worse", "--node", &case.pair.b])?, reason)?;
        pods::wait_gone(&case.lab, &case.namespace, "worse", case.patience())
    };
    let flip = |file: &str| format!("f=$(ls {path}/{file} | head -1); printf '\\377' | dd of=$f bs=1 seek=64 conv=notrunc status=none");
    case.lab.script_on_node(&case.pair.a, &format!("cp -a {path} {path}.whole; {}", flip("counter/images/core-1.img")))?;
    restore("CheckpointDamaged")?;
    case.lab.script_on_node(&case.pair.a, &format!("rm -rf {path}; mv {path}.whole {path}; echo >> {path}/index.json"))?;
    restore("CheckpointDamaged")?;
    case.lab.script_on_node(&case.pair.a, &format!("mv {path} {path}.away"))?;
    restore("CheckpointMissing")?;
    case.lab.script_on_node(&case.pair.a, &format!("mv {path}.away {path}"))?;
    let privileged: Value = json!({"status": {"pod": {"spec": {"hostPID": true}}}});
    case.lab.kubectl(&["patch", "podcheckpoint", "-n", &case.namespace, &kept.name, "--subresource=status", "--type=merge", "-p", &privileged.to_string()])?;
    restore("CheckpointForged")?;
    ok(case.kubectl_migrate(&["checkpoints", "delete", &kept.name])?)?;
    std::thread::sleep(Duration::from_millis(100));
    let left = case.lab.script_on_node(&case.pair.b, &format!("ls -A {STORE}/{} 2>/dev/null || true", case.namespace))?;
    ensure!(left.trim().is_empty(), "there is left:\n{left}");
    Ok(())
}
