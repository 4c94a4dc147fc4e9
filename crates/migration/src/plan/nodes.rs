//! Whether a process of one node can go on on another: architecture, CPU features, CRIU, cgroups, kernel, agents.
//!
//! CRIU itself does not refuse a missing CPU feature at restore: the process runs and dies of SIGILL inside the C library, which chose its code by the features
//! of the CPU on which it started. So the comparison stands here, before anything is touched.

use serde::{Deserialize, Serialize};

use crate::Failure;

/// The oldest CRIU with which the road was proven.
pub const MIN_CRIU: (u32, u32) = (4, 1);
/// The first kernel that knows guard regions.
const GUARDS: (u32, u32) = (6, 13);
/// How many missing CPU features are named.
const NAMED: usize = 8;

/// One node, as its agent reports it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// As in `uname -m`.
    pub architecture: String,
    /// `flags` of /proc/cpuinfo.
    pub cpu_flags: Vec<String>,
    /// `uname -r`.
    pub kernel: String,
    /// Version of CRIU; empty if there is none.
    pub criu: String,
    /// `v1` or `v2`.
    pub cgroup: String,
    /// Version of the agent.
    pub agent: String,
}

/// What a pod needs of the node that it goes to, beside what its own has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Its processes have guard regions (`MADV_GUARD_INSTALL`; glibc 2.42 makes one for each thread's stack).
    pub guards: bool,
}

/// What the comparison found.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Comparison {
    /// What is in the way.
    pub blockers: Vec<Failure>,
    /// What is worth knowing.
    pub warnings: Vec<String>,
}

/// Compares the node that a pod leaves with the one that it goes to.
#[must_use]
pub fn compare(source: &Node, target: &Node, pod: Needs) -> Comparison {
    let mut found = Comparison::default();
    if !source.name.is_empty() && source.name == target.name {
        found.block("SameNode", format!("the pod runs on node {} already", source.name), "Choose another node.");
        return found;
    }
    if source.architecture != target.architecture {
        found.block(
            "ArchitectureDiffers",
            format!("node {} is {}, node {} is {}", source.name, source.architecture, target.name, target.architecture),
            "Choose a node of the same architecture.",
        );
        return found;
    }
    cpu(source, target, &mut found);
    criu(source, &mut found);
    criu(target, &mut found);
    if source.cgroup != target.cgroup {
        found.block(
            "CgroupVersionDiffers",
            format!("node {} uses cgroup {}, node {} uses cgroup {}", source.name, source.cgroup, target.name, target.cgroup),
            "Choose a node with the same cgroup version.",
        );
    }
    if source.agent != target.agent {
        found.block(
            "AgentVersionDiffers",
            format!("the agent of node {} is {}, that of node {} is {}", source.name, source.agent, target.name, target.agent),
            "Wait until the roll-out of the agents has ended.",
        );
    }
    if pod.guards && version(&target.kernel).is_some_and(|there| there < GUARDS) {
        let (major, minor) = GUARDS;
        found.block(
            "GuardRegions",
            format!("the pod has guard regions, which the kernel of node {} ({}) does not know", target.name, target.kernel),
            &format!("Choose a node with Linux {major}.{minor} or newer."),
        );
    }
    if source.kernel != target.kernel {
        found.warnings.push(format!("the kernel changes from {} to {}", source.kernel, target.kernel));
    }
    found
}

/// Features that the kernel lists but that programs cannot use, or that say something about the machine, not about instructions: they differ without harm.
const NOT_INSTRUCTIONS: &str = "\
    hypervisor constant_tsc nonstop_tsc tsc_known_freq tsc_reliable art arch_perfmon pebs bts rep_good nopl xtopology cpuid acpi dts ht tm tm2 pbe est \
    ds_cpl dtes64 monitor vmx svm smx pdcm xtpr dca epb ida arat pln pts hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req hfi cpb hw_pstate aperfmperf \
    tpr_shadow flexpriority ept vpid ept_ad vnmi npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists pausefilter pfthreshold avic \
    v_vmsave_vmload vgif v_spec_ctrl pti ssbd mba ibrs ibpb stibp ibrs_enhanced md_clear flush_l1d arch_capabilities spec_ctrl intel_stibp arch_lbr \
    amd_ibrs amd_ibpb amd_stibp amd_ssbd virt_ssbd cqm cqm_llc cqm_occup_llc cqm_mbm_total cqm_mbm_local rdt_a cat_l2 cat_l3 cdp_l2 cdp_l3 tme pconfig \
    intel_pt intel_ppin amd_ppin extd_apicid apic x2apic extapic tsc_deadline_timer mce mca mtrr pge pat pse pse36 pae vme de msr smep smap umip invpcid \
    pcid nx pdpe1gb skinit wdt ibs topoext perfctr_core perfctr_nb bpext perfctr_llc mwaitx perfmon_v2 split_lock_detect bus_lock_detect amd_lbr_v2 \
    amd_lbr_pmc_freeze cppc invlpgb debug_swap sev sev_es sme overflow_recov succor smca cmp_legacy cr8_legacy osvw tce nodeid_msr vmmcall tsc_adjust sgx \
    sgx_lc xsaves la57 fred lkgs ss";

fn cpu(source: &Node, target: &Node, found: &mut Comparison) {
    let missing: Vec<&str> = source
        .cpu_flags
        .iter()
        .map(String::as_str)
        .filter(|flag| !NOT_INSTRUCTIONS.split(' ').any(|other| other == *flag) && !target.cpu_flags.iter().any(|there| there == flag))
        .collect();
    if missing.is_empty() {
        return;
    }
    let named = missing.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    let more = missing.len().saturating_sub(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    found.block(
        "CpuFeaturesMissing",
        format!("the CPU of node {} lacks {named}{more}, which that of node {} has and the pod may use", target.name, source.name),
        "Choose a node with the same CPU or a newer one. To make a pod portable, start it with GLIBC_TUNABLES=glibc.cpu.hwcaps=… without these features.",
    );
}

fn criu(node: &Node, found: &mut Comparison) {
    let (major, minor) = MIN_CRIU;
    if node.criu.is_empty() {
        found.block("CriuMissing", format!("node {} has no criu", node.name), &format!("Install CRIU {major}.{minor} or newer on the node."));
    } else if version(&node.criu).is_none_or(|there| there < MIN_CRIU) {
        found.block(
            "CriuTooOld",
            format!("node {} has CRIU {}, at least {major}.{minor} is needed", node.name, node.criu),
            &format!("Install CRIU {major}.{minor} or newer on the node."),
        );
    }
}

/// Major and minor of `4.2`, `4.2.1`, `4.2-rc1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().split(['.', '-']);
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next().map_or(Some(0), |part| part.parse().ok())?;
    Some((major, minor))
}

impl Comparison {
    fn block(&mut self, reason: &str, message: String, remedy: &str) {
        self.blockers.push(Failure::new(reason, message, remedy));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn node(name: &str) -> Node {
        let flags = ["apic", "avx", "avx512f", "hypervisor", "sse2"];
        Node {
            name: name.into(),
            architecture: "x86_64".into(),
            cpu_flags: flags.map(String::from).to_vec(),
            kernel: "6.12.0".into(),
            criu: "4.2.1".into(),
            cgroup: "v1".into(),
            agent: "0.1.0".into(),
        }
    }

    fn reasons(change: impl FnOnce(&mut Node)) -> Vec<String> {
        let mut target = node("b");
        change(&mut target);
        compare(&node("a"), &target, Needs::default()).blockers.into_iter().map(|blocker| blocker.reason).collect()
    }

    #[test]
    fn each_difference_has_its_word() {
        assert_eq!(reasons(|_| ()), Vec::<String>::new());
        assert_eq!(reasons(|node| node.name = "a".into()), ["SameNode"]);
        assert_eq!(reasons(|node| node.architecture = "aarch64".into()), ["ArchitectureDiffers"]);
        assert_eq!(reasons(|node| node.cpu_flags.retain(|flag| flag != "avx512f")), ["CpuFeaturesMissing"]);
        assert_eq!(reasons(|node| node.criu = String::new()), ["CriuMissing"]);
        assert_eq!(reasons(|node| node.criu = "3.17.1".into()), ["CriuTooOld"]);
        assert_eq!(reasons(|node| node.criu = "4.0".into()), ["CriuTooOld"]);
        assert_eq!(reasons(|node| node.criu = "4.1-rc1".into()), Vec::<String>::new());
        assert_eq!(reasons(|node| node.criu = "unknown".into()), ["CriuTooOld"]);
        assert_eq!(reasons(|node| node.cgroup = "v2".into()), ["CgroupVersionDiffers"]);
        assert_eq!(reasons(|node| node.agent = "0.2.0".into()), ["AgentVersionDiffers"]);
    }

    #[test]
    fn guard_regions_need_a_kernel_that_knows_them() {
        let source = Node { kernel: "7.2.0".into(), ..node("a") };
        let to = |kernel: &str| {
            compare(&source, &Node { kernel: kernel.into(), ..node("b") }, Needs { guards: true })
                .blockers
                .into_iter()
                .map(|blocker| blocker.reason)
                .collect::<Vec<_>>()
        };
        assert_eq!(to("6.12.117+deb13-amd64"), ["GuardRegions"]);
        assert_eq!((to("6.13.0"), to("7.0.1")), (vec![], vec![]));
    }

    #[test]
    fn what_is_no_instruction_does_not_count_and_more_features_do_no_harm() {
        assert_eq!(reasons(|node| node.cpu_flags.retain(|flag| flag != "hypervisor" && flag != "apic")), Vec::<String>::new());
        assert_eq!(reasons(|node| node.cpu_flags.push("amx_tile".into())), Vec::<String>::new());
    }

    #[test]
    fn eight_features_are_named() {
        let mut source = node("a");
        source.cpu_flags = (0..11).map(|index| format!("f{index}")).collect();
        let found = compare(&source, &node("b"), Needs::default());
        assert!(found.blockers[0].message.contains("f7 and 3 more"), "{}", found.blockers[0].message);
    }

    #[test]
    fn another_kernel_is_a_warning() {
        let mut target = node("b");
        target.kernel = "7.2.0".into();
        let found = compare(&node("a"), &target, Needs::default());
        assert!(found.blockers.is_empty());
        assert_eq!(found.warnings, ["the kernel changes from 6.12.0 to 7.2.0"]);
    }
}
