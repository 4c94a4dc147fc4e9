//! What processes of real dumps may do is compared with what a container may.
#![allow(clippy::unwrap_used)]

mod common;

use godwit_criu::images::Set;
use godwit_criu::inspect::inspect;
use godwit_criu::privileges::beyond;
use serde_json::{Value, json};

/// The bounding set of the shell's first process, as names.
fn all() -> Vec<String> {
    let directory = common::shell();
    let lines = beyond(&Set::open(directory.path()).unwrap(), &json!({})).unwrap();
    let (_, list) = lines[0].split_once(": ").unwrap();
    list.split(", ").map(str::to_owned).collect()
}

fn lines(spec: &Value) -> Vec<String> {
    let directory = common::shell();
    beyond(&Set::open(directory.path()).unwrap(), spec).unwrap()
}

#[test]
fn what_the_new_container_has_is_no_more() {
    let own = all();
    assert!(!own.is_empty() && own.iter().all(|name| name.starts_with("CAP_")), "{own:?}");
    let spec = json!({"process": {"capabilities": {"bounding": own}}});
    assert_eq!(lines(&spec), Vec::<String>::new());
}

#[test]
fn every_right_beyond_it_is_named_for_every_process() {
    let mut own = all();
    let taken = own.pop().unwrap();
    let directory = common::shell();
    let processes = inspect(&Set::open(directory.path()).unwrap(), None).processes.len();
    let told = lines(&json!({"process": {"capabilities": {"bounding": own}}}));
    assert_eq!(told.len(), processes);
    assert!(told.iter().all(|line| line.ends_with(&format!(": {taken}"))), "{told:?}");
    let all = self::all();
    // They were dumped below a filter.
    let filtered = json!({"process": {"capabilities": {"bounding": all}}, "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}}});
    assert_eq!(lines(&filtered), Vec::<String>::new());
    let strict = json!({"process": {"capabilities": {"bounding": all}, "noNewPrivileges": true, "user": {"uid": 1000}}});
    let told = lines(&strict);
    assert!(told.iter().any(|line| line.contains("may gain privileges") && line.contains("it is root")), "{told:?}");
}
