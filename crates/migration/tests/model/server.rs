//! The API server with its one object: compare-and-swap, and whether every change was lawful.

use godwit_migration::handover::{Owner, Read, Role, Written, may};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    Read,
    Create,
    Write { from: String, to: Owner },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    Read(Read),
    Created(Written),
    Written(Owner, Written),
}

/// One agent's outstanding call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Asked(Request),
    Answered(Reply),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Server {
    pub object: Option<(Owner, u8)>,
    pub next: u8,
    pub unlawful: bool,
}

impl Server {
    pub fn serve(&mut self, role: Role, request: &Request) -> Reply {
        match request {
            Request::Read => Reply::Read(match self.object {
                Some((owner, version)) => Read::Found { owner, version: version.to_string() },
                None => Read::NotFound,
            }),
            Request::Create => {
                if self.object.is_some() {
                    return Reply::Created(Written::Conflict);
                }
                Reply::Created(self.put(Owner::Source))
            }
            Request::Write { from, to } => match self.object {
                Some((owner, version)) if version.to_string() == *from => {
                    if !may(owner, *to, role) {
                        self.unlawful = true;
                        return Reply::Written(*to, Written::Conflict);
                    }
                    Reply::Written(*to, self.put(*to))
                }
                _ => Reply::Written(*to, Written::Conflict),
            },
        }
    }

    /// Whether the request, served now or later, would change something.
    pub fn bites(&self, request: &Request) -> bool {
        match request {
            Request::Read => false,
            Request::Create => self.object.is_none(),
            Request::Write { from, .. } => self.object.is_some_and(|(_, version)| version.to_string() == *from),
        }
    }

    fn put(&mut self, owner: Owner) -> Written {
        self.next += 1;
        self.object = Some((owner, self.next));
        Written::Ok { version: self.next.to_string() }
    }
}
