//! One agent that tells. A stream that breaks is taken up again where it was.

use std::sync::Arc;
use std::time::Duration;

use godwit_api::trace::TraceLine;
use godwit_rpc::v1::{self, TraceRequest};
use tokio::sync::mpsc;

use crate::context::Context;

/// Before a broken stream is taken up again.
const PAUSE: Duration = Duration::from_secs(1);

/// What an agent says.
pub enum Told {
    /// A line.
    Line(TraceLine),
    /// All that was there when it began.
    Past(&'static str),
    /// It has nothing more to say.
    Ended,
}

/// Passes on what the agent of `node` tells, until it ends or nobody listens.
pub async fn listen(context: Arc<Context>, role: &'static str, node: String, mut request: TraceRequest, out: mpsc::Sender<Told>) {
    let mut complained = false;
    loop {
        let why = match stream(&context, role, &node, &mut request, &out).await {
            Ok(()) => String::new(),
            Err(why) => why,
        };
        if !why.is_empty() && !std::mem::replace(&mut complained, true) {
            let text = format!("the agent of {node} cannot be heard: {why}");
            let now = jiff::Timestamp::now().as_microsecond();
            let line = TraceLine { at_us: now, node: node.clone(), source: "trace".into(), level: "warning".into(), text };
            let _ = out.send(Told::Line(line)).await;
            // What is there of the other side is not held back for it.
            let _ = out.send(Told::Past(role)).await;
        }
        if !request.follow || out.is_closed() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let _ = out.send(Told::Ended).await;
}

async fn stream(context: &Context, role: &'static str, node: &str, request: &mut TraceRequest, out: &mpsc::Sender<Told>) -> Result<(), String> {
    let mut agent = context.agents.of(node).await.map_err(|error| error.to_string())?;
    let said = |status: tonic::Status| match status.code() {
        tonic::Code::Unimplemented => "it is older than this controller".to_owned(),
        _ => status.message().to_owned(),
    };
    let mut lines = agent.trace(request.clone()).await.map_err(said)?.into_inner();
    while let Some(line) = lines.message().await.map_err(said)? {
        if line.past_ends {
            if out.send(Told::Past(role)).await.is_err() {
                return Ok(());
            }
            continue;
        }
        request.since_us = request.since_us.max(line.at_us.saturating_add(1));
        let v1::TraceLine { at_us, source, level, text, .. } = line;
        if out.send(Told::Line(TraceLine { at_us, node: node.to_owned(), source, level, text })).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
