//! What is done while the pod still runs: files and memory travel, the target is opened, the old address finds its place.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
};

use godwit_network::Attachment;
use godwit_rpc::v1::{Anchored, Copied, Migration, SwitchEvent, handoff_client::HandoffClient, switch_event};
use tonic::transport::Channel;

use super::{Command, Failure, ROLE, Session};
use crate::{
    anchor,
    clock::Timer,
    failure::{failure, internal},
    node::Node,
    source::{
        lanes::Lanes,
        pod::{SourcePod, images_of},
        travel::Wishes,
    },
};

/// Removes the images of a pod, and what CRIU worked with.
pub(super) fn free_images(node: &Node, pod_uid: &str) {
    let images = node.host.path(images_of(pod_uid));
    if let Err(error) = std::fs::remove_dir_all(&images)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, images = %images.display(), "cannot free the images");
    }
}

/// Everything that is done while the pod runs.
pub(super) async fn prepare(
    node: &Arc<Node>,
    migration: &Migration,
    session: &Session,
    wishes: Wishes,
) -> Result<(SourcePod, HandoffClient<Channel>), Failure> {
    let step = |timer: Timer| {
        let _ = session.commands.send(Command::Step(timer.stop()));
    };
    let report = |copied| session.events.push(SwitchEvent { event: Some(switch_event::Event::Copied(copied)) });
    godwit_fault::point("agent.source.prepare").await.map_err(|error| internal("stopped", error))?;
    let timer = Timer::start(ROLE, "inspect");
    let pod = SourcePod::prepare(&node.host, &node.cri, &migration.source_pod_uid).await?;
    step(timer);
    if session.machine().finished() {
        // Taken back before there was anything to free: what has been made since goes here. Whatever is taken back later finds it.
        free_images(node, &migration.source_pod_uid);
        return Err(internal("stopped", "the migration was taken back"));
    }
    let dial = || node.handoff(&migration.target_address, &migration.target_node);
    let mut handoff = dial()?;
    let timer = Timer::start(ROLE, "copy");
    pod.copy_files(&handoff, migration).await?;
    step(timer);
    report(Copied { bytes: pod.sent.load(Ordering::Relaxed), total: pod.total, ..Copied::default() });
    let timer = Timer::start(ROLE, "memory");
    let lanes = Lanes::new(handoff.clone(), dial, wishes.connections, wishes.compression)?;
    let asked = session.clone();
    let wanted = move || !asked.machine().finished();
    pod.memory.run(lanes, migration, wishes, wanted.clone(), report, step).await?;
    step(timer);
    let timer = Timer::start(ROLE, "prime");
    pod.begin_dumps(wishes.import)?;
    let (anchors, kept) = anchors(node, migration, &pod).await?;
    pod.open(&mut handoff, migration, anchors, &kept, wishes.bandwidth).await?;
    pod.dumps_wait().await?;
    step(timer);
    pod.memory.once_more(migration, wishes, wanted, report, step).await?;
    godwit_fault::point("agent.source.opened").await.map_err(|error| internal("stopped", error))?;
    Ok((pod, handoff))
}

/// What is to live on at the target, and the addresses of earlier pods that this one still has.
async fn anchors(node: &Arc<Node>, migration: &Migration, pod: &SourcePod) -> Result<(Vec<Anchored>, Vec<IpAddr>), Failure> {
    let earlier = node.mirrors.of_pod(&migration.source_pod_uid);
    let kept = earlier.iter().flat_map(|held| held.addresses()).collect();
    let segment = migration.network == "KeepAddress";
    if !segment && migration.network != "Anchor" {
        return Ok((Vec::new(), kept));
    }
    let address = pod.address().ok_or_else(|| {
        failure("NoAddress", "the runtime names no address of the pod that an anchor could keep", "move it with its connections closed: --network close")
    })?;
    let (name, netns) = (anchor::Name { pod_uid: migration.source_pod_uid.clone(), ticket: migration.ticket.clone() }, pod.grip.netns().to_owned());
    let (holder, here) = (node.clone(), name.clone());
    let before = earlier.iter().filter(|held| held.segment).map(|held| held.attachment().clone()).collect();
    let attachment = anchor::blocking(move || {
        let attachment = Attachment::of(&holder.host.path(&netns), address).map_err(|error| anchor::refused(&error))?;
        holder.anchors.announce(anchor::holder::Anchor {
            name: here,
            netns,
            attachment: attachment.clone(),
            earlier: before,
            links: Vec::new(),
            current: None,
        })?;
        Ok(attachment)
    })
    .await?;
    let own = Anchored {
        name: Some(name.about(&migration.target_pod_uid)),
        node: node.name.clone(),
        agent: migration.source_address.clone(),
        underlay: node.ip.to_string(),
        wireguard: node.wireguard.key(),
        attachment: serde_json::to_vec(&attachment).map_err(|error| internal("the old address", error))?,
        segment,
        strangers: anchor::holder::own_addresses().iter().map(ToString::to_string).collect(),
    };
    Ok((std::iter::once(own).chain(earlier.iter().map(|held| held.anchored(segment))).collect(), kept))
}
