//! The command line.
//!
//! `kubectl migrate POD` is short for `kubectl migrate pod POD`; the long form moves a pod that is called like a subcommand.

use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// Exit codes, for the help text.
const CODES: &str = "Exit codes:
  0  moved (or planned, with --dry-run; or ordered, with --no-wait)
  1  failed: the pod runs where it was and nothing was touched
  2  taken back: the pod runs where it was; it may have stood still for a moment
  3  the command line is wrong
  4  the cluster cannot be reached, or Godwit is not installed there
  5  the cluster refused: not allowed, or no such migration
  6  interrupted while waiting; the migration goes on
  7  lost: the old pod's node was taken out of the cluster before the pod had moved, or after a switch with
     post-copy the old pod was lost before all of its memory had come

Examples:
  kubectl migrate web-0 --to node-b            move a pod and watch
  kubectl migrate web-0                        the scheduler chooses another node
  kubectl migrate web-0 --to node-b --dry-run  only plan: what would be done, what is in the way
  kubectl migrate pod list                     a pod that is called like a subcommand";

/// Move running pods between nodes, with their memory.
#[derive(Debug, Parser)]
#[command(name = "kubectl-migrate", bin_name = "kubectl migrate", version, after_help = CODES, args_conflicts_with_subcommands = true, subcommand_precedence_over_arg = true, arg_required_else_help = true)]
pub struct Options {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub pod: Option<Pod>,
    #[command(flatten)]
    pub place: Place,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Move a pod (the same as `kubectl migrate POD`)
    Pod {
        #[command(flatten)]
        pod: Pod,
        #[command(flatten)]
        place: Place,
    },
    /// Show one migration
    Status {
        /// Name of the migration
        name: String,
        /// Go on watching until it ends
        #[arg(short, long)]
        watch: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Show all migrations of a namespace
    List {
        /// Of all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Take a migration back, if it has not committed yet
    Cancel {
        /// Name of the migration
        name: String,
        /// Do not wait until it has ended
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Look whether pods can move in this cluster: every node, or one; or whether one pod could, and where to
    Doctor {
        /// Name of a pod
        #[arg(conflicts_with_all = ["node", "fix"])]
        pod: Option<String>,
        /// Only this node
        #[arg(long)]
        node: Option<String>,
        /// Put Godwit's own files on the nodes in order first (wrapper, drop-in); nothing else is touched
        #[arg(long)]
        fix: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Tell why a migration did not succeed, or what a log or an archive means, and what to do
    Explain {
        /// Name of a migration or of a pod that was moved; or a file: dump.log, restore.log, a log of runc, a checkpoint archive, a directory of these, `-` for
        /// standard input. Without it: the last migration that failed
        #[arg(conflicts_with = "all")]
        what: Option<String>,
        /// Print the whole failure matrix
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Tell what is in a checkpoint: processes, threads, open files, sockets, mounts, memory; and whether it is whole
    Inspect {
        /// A checkpoint archive of CRI-O, Podman or containerd, an OCI image of one (directory or archive), or a directory of CRIU's images
        path: std::path::PathBuf,
        /// Every open file of every process too
        #[arg(long)]
        files: bool,
        /// Every mapping of every process too
        #[arg(long)]
        maps: bool,
        /// The environment of every process too; it often holds secrets
        #[arg(long)]
        environment: bool,
        /// Print one image as JSON with CRIU's own names instead, e.g. `core-1.img`; or `all` of them
        #[arg(long, value_name = "IMAGE", conflicts_with_all = ["files", "maps", "environment"])]
        decode: Option<String>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Write a checkpoint archive anew: in the layout of the other runtime, or as an OCI image that a kubelet takes
    Convert {
        /// The archive
        archive: std::path::PathBuf,
        /// The new file; with --image the directory of an OCI layout, which is made
        target: std::path::PathBuf,
        /// Which runtime is to restore it
        #[arg(long, value_enum, conflicts_with = "image", required_unless_present = "image")]
        to: Option<Runtime>,
        /// Name of the image, e.g. registry.example/checkpoints/web:1; the archive is put into it as it is
        #[arg(long, value_name = "NAME")]
        image: Option<String>,
    },
    /// Have this node's container runtime restore a checkpoint archive, over CRI and beside Kubernetes: on a node without a kubelet, as root
    Run {
        #[command(flatten)]
        order: Run,
    },
    /// Show every step of a migration with its time, and what the freeze was spent on
    Timeline {
        /// Name of the migration, or of a pod that was moved; or a file NAME.json, as `kubectl get podmigration NAME -o json` prints one
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Tell what happens on both nodes and in the controller, in one stream: kubelet, runtime, runc, CRIU, kernel, signals
    Trace {
        #[command(flatten)]
        trace: Trace,
        #[command(flatten)]
        place: Place,
    },
    /// Keep what a running pod is at this instant; it goes on
    Checkpoint {
        #[command(flatten)]
        order: Checkpoint,
        #[command(flatten)]
        place: Place,
    },
    /// Show the checkpoints of a namespace, describe one, delete some
    Checkpoints {
        #[command(subcommand)]
        what: Option<Kept>,
        #[command(flatten)]
        place: Place,
    },
    /// Make a new pod of a checkpoint, as often as you like, on any node
    Restore {
        #[command(flatten)]
        order: Restore,
        #[command(flatten)]
        place: Place,
    },
    /// Retire the anchor of a migration: connections that still use the old address are reset, the old pod goes
    Release {
        /// Name of the migration
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Write everything about a migration as one page
    Report {
        /// Name of the migration, or of a pod that was moved; or a file NAME.json, as `kubectl get podmigration NAME -o json` prints one
        name: String,
        /// What to write
        #[arg(short, long, value_enum, default_value_t = Format::Html)]
        output: Format,
        /// Where to write it; standard output without it
        #[arg(short, long, value_name = "FILE")]
        file: Option<std::path::PathBuf>,
        #[command(flatten)]
        at: Where,
    },
    /// Print a completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// A pod and where it should go.
#[derive(Clone, Debug, Args)]
// The subcommand has a group of the name `Pod` already.
#[group(id = "which-pod")]
pub struct Pod {
    /// Name of the pod (`pod/NAME` is understood too)
    pub name: String,
    /// Node to move it to; without it the scheduler chooses another one than the pod's
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    /// Only plan: say what would be done and what is in the way
    #[arg(long)]
    pub dry_run: bool,
    /// Time for everything up to the commit, e.g. 90s or 2m (default: two minutes, one more for each GiB of memory, and what --bandwidth costs); when it passes, the pod is taken back
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub deadline: Option<Duration>,
    /// What becomes of its connections
    #[arg(long, value_enum, default_value_t = Network::Auto)]
    pub network: Network,
    /// What makes the pod anew on its new node
    #[arg(long, value_name = "WHAT", value_enum)]
    pub engine: Option<Engine>,
    /// When memory travels: auto, stop-and-copy, pre-copy or post-copy
    #[arg(long, value_name = "WHEN", value_enum)]
    pub memory: Option<Memory>,
    /// For how long the pod may stand still, as a wish, in milliseconds: memory travels ahead until what is left fits
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    pub freeze_budget: Option<u32>,
    /// What memory may use of the network while the pod runs, in MiB a second
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub bandwidth: Option<u32>,
    /// Whether memory is compressed on its way
    #[arg(long, value_name = "WHETHER", value_enum)]
    pub compression: Option<Compression>,
    /// What to do when the pod changes its memory as fast as it travels
    #[arg(long, value_name = "WHAT", value_enum)]
    pub if_not_converging: Option<NotConverging>,
    /// How it is told which pages change while memory travels
    #[arg(long, value_name = "HOW", value_enum)]
    pub tracking: Option<Tracking>,
    /// On how many connections between the nodes memory travels, 1 to 8 (default: one, and up to four where more of them bring more across)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    pub connections: Option<u32>,
    /// Only order the migration
    #[arg(long)]
    pub no_wait: bool,
}

/// What is to be kept.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Checkpoint {
    /// Name of the pod (`pod/NAME` is understood too)
    #[arg(value_name = "POD")]
    pub pod: String,
    /// Name of the checkpoint; without it one is made of the pod's
    #[arg(long)]
    pub name: Option<String>,
    /// How long it stays, e.g. 1h; without it until it is deleted
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub ttl: Option<Duration>,
    /// Delete older checkpoints of this pod, so that only so many stay
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: Option<u32>,
    /// Encrypt it with a key from a Secret of the namespace: its value `key`, or the one that is named; 32 bytes, or base64 of them
    #[arg(long, value_name = "SECRET[/VALUE]")]
    pub encrypt_with: Option<String>,
    /// Keep it in a registry instead of the installation's directory: oci://HOST[:PORT]/REPOSITORY
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// The Secret (kubernetes.io/dockerconfigjson) of who logs in to the registry
    #[arg(long, value_name = "SECRET")]
    pub registry_secret: Option<String>,
    /// Only order it
    #[arg(long)]
    pub no_wait: bool,
}

/// What to do with checkpoints.
#[derive(Clone, Debug, Subcommand)]
pub enum Kept {
    /// Show all
    List {
        /// Of all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Tell what is known of one
    Describe {
        /// Its name
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Delete checkpoints, and what is stored of them
    Delete {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
        /// Do not wait until they are gone
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        place: Place,
    },
}

impl Kept {
    /// Which cluster and namespace, and how to print.
    #[must_use]
    pub fn place(&self) -> &Place {
        match self {
            Self::List { place, .. } | Self::Describe { place, .. } | Self::Delete { place, .. } => place,
        }
    }
}

/// What is to be made of a checkpoint.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Restore {
    /// Name of the checkpoint
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: String,
    /// Name of the new pod; without it the old one's with `-r1`, `-r2`, … behind it
    #[arg(long, value_name = "POD")]
    pub name: Option<String>,
    /// Node of the new pod; without it the scheduler chooses
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// What makes the new pod
    #[arg(long, value_name = "WHAT", value_enum)]
    pub engine: Option<Engine>,
    /// The Secret with the key of an encrypted checkpoint; without it the one that it was encrypted with
    #[arg(long, value_name = "SECRET[/VALUE]")]
    pub decrypt_with: Option<String>,
    /// The Secret of who logs in to the registry that it is in; without it the one that it was made with
    #[arg(long, value_name = "SECRET")]
    pub registry_secret: Option<String>,
    /// Only order it
    #[arg(long)]
    pub no_wait: bool,
}

/// What is to be made of an archive, without Kubernetes.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Run {
    /// The archive, in the layout of this node's runtime
    #[arg(required_unless_present = "remove")]
    pub archive: Option<std::path::PathBuf>,
    /// Name of what is made
    #[arg(long, value_name = "NAME", default_value = "restored", value_parser = label)]
    pub name: String,
    /// Where something of the container was mounted, and what of this node is to be there
    #[arg(long, value_name = "DESTINATION=PATH", value_parser = mount)]
    pub mount: Vec<(std::path::PathBuf, std::path::PathBuf)>,
    /// The runtime's socket; without it the one that the kubelet is configured for, or the usual ones
    #[arg(long, value_name = "SOCKET")]
    pub runtime: Option<std::path::PathBuf>,
    /// End what was made: its sandbox
    #[arg(long, value_name = "ID", conflicts_with = "archive")]
    pub remove: Option<String>,
}

/// What is to be told of a migration.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Trace {
    /// Name of the migration, or of a pod that is, was or will be moved. Without it: the migration of the namespace that is under way, else the next one
    pub name: Option<String>,
    /// Everything that the logs say, not only what matters
    #[arg(short, long)]
    pub verbose: bool,
    /// Nothing older than this, e.g. 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub since: Option<Duration>,
    /// Only lines in which this regular expression is found
    #[arg(long, value_name = "REGEX", value_parser = regex::Regex::new)]
    pub grep: Option<regex::Regex>,
    /// Only these sources, e.g. kubelet,criu
    #[arg(long, value_name = "SOURCES", value_delimiter = ',', value_parser = source)]
    pub source: Vec<godwit_trace::Source>,
    /// Not what was, but the next migration
    #[arg(long)]
    pub next: bool,
    /// Let kubelets and CRI-O log more while this runs; undone at the end
    #[arg(long)]
    pub raise: bool,
    /// Colours
    #[arg(long, value_enum, default_value_t = Colour::Auto)]
    pub color: Colour,
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal
    Auto,
    /// Yes
    Always,
    /// No
    Never,
}

/// What becomes of the pod's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// An anchor if both nodes can have one, else close
    #[default]
    Auto,
    /// The old address moves into the new pod, on a network segment that both nodes share
    KeepAddress,
    /// The old address lives on in the new pod, through the old pod's sandbox
    Anchor,
    /// They end; peers reconnect
    Close,
}

/// A runtime whose checkpoint archives have a layout of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// CRI-O
    Crio,
    /// containerd
    Containerd,
}

/// When memory travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Memory {
    /// While the pod runs where that is possible and worth it
    Auto,
    /// While the pod stands still
    StopAndCopy,
    /// While the pod runs
    PreCopy,
    /// While the pod runs, and what changes meanwhile after the switch
    PostCopy,
}

/// What makes a pod anew on its new node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Godwit's runtime handler where the node has it, else the container runtime
    Auto,
    /// Godwit's runtime handler
    Live,
    /// The container runtime itself, by its import of checkpoint images
    Checkpoint,
}

impl From<Engine> for godwit_api::migration::Engine {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::Live => Self::Live,
            Engine::Checkpoint => Self::Checkpoint,
        }
    }
}

/// Whether memory is compressed on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// Where the network is what takes the time
    Auto,
    /// All that gets smaller by it
    Always,
    /// Nothing
    Never,
}

/// What becomes of a migration whose memory does not get less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NotConverging {
    /// The pod stands still for as long as it takes
    LongerFreeze,
    /// It stays where it is
    GiveUp,
    /// What is left travels after the switch
    PostCopy,
}

/// How it is told which pages of a pod have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tracking {
    /// By write protection where the node's kernel can do that, else by digests
    Auto,
    /// By digests of all memory, compared in each round and once more in the freeze
    Digests,
}

/// Which cluster and namespace, and how to print.
#[derive(Clone, Debug, Args)]
pub struct Place {
    #[command(flatten)]
    pub at: Where,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Which cluster and namespace.
#[derive(Clone, Debug, Args)]
pub struct Where {
    /// Namespace
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long)]
    pub context: Option<String>,
    /// Path of the kubeconfig
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<std::path::PathBuf>,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// The object, when there is nothing more to wait for
    Json,
}

/// What a report is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One page that needs nothing but itself
    Html,
    /// For programs
    Json,
}

impl Options {
    /// Writes the completion script.
    pub fn complete(shell: clap_complete::Shell) {
        clap_complete::generate(shell, &mut Self::command(), "kubectl-migrate", &mut std::io::stdout());
    }
}

/// Reads `DESTINATION=PATH`, both absolute.
fn mount(text: &str) -> Result<(std::path::PathBuf, std::path::PathBuf), String> {
    let (destination, path) = text.split_once('=').unwrap_or((text, ""));
    let (destination, path) = (std::path::PathBuf::from(destination), std::path::PathBuf::from(path));
    if destination.is_absolute() && path.is_absolute() { Ok((destination, path)) } else { Err("use e.g. /data=/srv/data".into()) }
}

/// Reads a name that may be a folder's and a pod's.
fn label(text: &str) -> Result<String, String> {
    let sound = (1..=63).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if sound && !text.starts_with('-') { Ok(text.to_owned()) } else { Err("use lower-case letters, digits and '-'".into()) }
}

/// Reads `90`, `90s`, `2m`, `1m30s`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(u64::from(seconds)));
    }
    let time: jiff::SignedDuration = text.parse().map_err(|_| "use e.g. 90s or 2m".to_owned())?;
    Duration::try_from(time).map_err(|_| "it must not be negative".to_owned())
}

/// Reads the tag of a source.
fn source(tag: &str) -> Result<godwit_trace::Source, String> {
    let all = || godwit_trace::Source::ALL.map(godwit_trace::Source::tag).join(", ");
    godwit_trace::Source::of(tag).ok_or_else(|| format!("there are: {}", all()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn parse(line: &str) -> Options {
        Options::try_parse_from(std::iter::once("kubectl-migrate").chain(line.split(' '))).unwrap()
    }

    #[test]
    fn the_definition_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn a_pod_is_the_default() {
        let options = parse("web-0 --to node-b -n shop --deadline 2m");
        let pod = options.pod.unwrap();
        assert_eq!((pod.name.as_str(), pod.to.as_deref(), options.place.at.namespace.as_deref()), ("web-0", Some("node-b"), Some("shop")));
        assert_eq!(pod.deadline, Some(Duration::from_secs(120)));
    }

    #[test]
    fn a_pod_called_like_a_subcommand_has_the_long_form() {
        assert!(matches!(parse("list").command, Some(Command::List { .. })));
        let Some(Command::Pod { pod, .. }) = parse("pod list --to node-b").command else { panic!("a pod") };
        assert_eq!(pod.name, "list");
        let Some(Command::Pod { pod, .. }) = parse("pod pod").command else { panic!("a pod") };
        assert_eq!(pod.name, "pod");
    }

    #[test]
    fn checkpoints_are_made_looked_at_and_restored() {
        let Some(Command::Checkpoint { order, place }) = parse("checkpoint pod/web-0 --ttl 1h --keep 3 -n shop").command else { panic!("a checkpoint") };
        assert_eq!((order.pod.as_str(), order.keep, order.ttl), ("pod/web-0", Some(3), Some(Duration::from_secs(3600))));
        assert_eq!(place.at.namespace.as_deref(), Some("shop"));
        let Some(Command::Checkpoints { what: None, place }) = parse("checkpoints -n shop").command else { panic!("a list") };
        assert_eq!(place.at.namespace.as_deref(), Some("shop"));
        let Some(Command::Checkpoints { what: Some(Kept::Delete { names, place, .. }), .. }) = parse("checkpoints delete a b -n shop").command else {
            panic!("delete")
        };
        assert_eq!((names, place.at.namespace.as_deref()), (vec!["a".to_owned(), "b".to_owned()], Some("shop")));
        let Some(Command::Restore { order, .. }) = parse("restore web-0-x --name copy --node b").command else { panic!("a restore") };
        assert_eq!((order.checkpoint.as_str(), order.name.as_deref(), order.node.as_deref()), ("web-0-x", Some("copy"), Some("b")));
    }

    #[test]
    fn a_trace_is_told_what_to_leave_out() {
        let Some(Command::Trace { trace, place }) = parse("trace web-0 -v --since 30s --grep cr.u --source criu,kubelet -o json").command else {
            panic!("a trace")
        };
        assert_eq!((trace.name.as_deref(), trace.verbose, trace.since), (Some("web-0"), true, Some(Duration::from_secs(30))));
        assert_eq!(trace.source, [godwit_trace::Source::Criu, godwit_trace::Source::Kubelet]);
        assert!(trace.grep.unwrap().is_match("criu") && place.output == Output::Json);
        assert!(Options::try_parse_from(["kubectl-migrate", "trace", "--source", "x"]).is_err());
        assert!(Options::try_parse_from(["kubectl-migrate", "trace", "--grep", "("]).is_err());
    }

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("2m", 120), ("1m30s", 90), ("1h", 3600)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert!(duration("soon").is_err());
        assert!(duration("-5s").is_err());
    }
}
