//! Who gets which page: no system call is made here.
use crate::{CLIENTS, PAGES};
use abi::{Rights, Status};
use rt::exception::Access;

/// A page of the pager's memory, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame(pub usize);

/// What a pager does to memory.
pub trait Memory {
    /// Fills a frame with zeros.
    fn clear(&mut self, frame: Frame);
    /// Copies a frame.
    fn copy(&mut self, from: Frame, to: Frame);
    /// Maps a frame as page `page` of a client, where nothing is mapped.
    fn map(
        &mut self,
        client: usize,
        page: usize,
        frame: Frame,
        rights: Rights,
    ) -> Result<(), Status>;
    /// Unmaps what was mapped there.
    fn unmap(&mut self, client: usize, page: usize) -> Result<(), Status>;
}

/// What a client finds in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: each page is empty, and there from its first use on.
    DemandZero,
    /// What is in the pager's first [`PAGES`] frames, which stay as they are.
    CopyOnWrite,
}

/// Why a client gets no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such client, or no page of its memory.
    Outside,
    /// Nobody executes what a pager gives.
    Execute,
    /// The client has had as many frames as it may, or the pager has no more.
    Limit,
    /// The kernel's: the client's domain has no memory for page tables, or its space is gone.
    Kernel(Status),
}

/// What a client has at a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Nothing,
    /// The common one, which cannot be written.
    Shared,
    /// A frame of its own.
    Own,
}

#[derive(Clone, Copy, Debug)]
struct Client {
    pages: [Page; PAGES],
    /// Frames that it may still get.
    left: usize,
}

/// The pager's books.
#[derive(Debug)]
pub struct Pager {
    policy: Policy,
    clients: [Client; CLIENTS],
    /// The first frame that nobody has.
    next: usize,
    frames: usize,
}

impl Pager {
    /// A pager with `frames` frames, of which each client may get `limits`.
    pub fn new(policy: Policy, frames: usize, limits: [usize; CLIENTS]) -> Pager {
        Pager {
            policy,
            clients: limits.map(|left| Client { pages: [Page::Nothing; PAGES], left }),
            next: match policy {
                Policy::DemandZero => 0,
                Policy::CopyOnWrite => PAGES,
            },
            frames,
        }
    }

    /// A client needs page `page` of its memory.
    pub fn fault(
        &mut self,
        client: usize,
        page: usize,
        access: Access,
        memory: &mut impl Memory,
    ) -> Result<(), Refusal> {
        let state = self.clients.get(client).and_then(|c| c.pages.get(page));
        let state = *state.ok_or(Refusal::Outside)?;
        let write = match access {
            Access::Read => false,
            Access::Write => true,
            Access::Execute => return Err(Refusal::Execute),
        };
        let (frame, rights, next) = match (state, self.policy) {
            // Another thread of the client was here first.
            (Page::Own, _) => return Ok(()),
            (Page::Shared, _) if !write => return Ok(()),
            (Page::Nothing, Policy::CopyOnWrite) if !write => {
                (Frame(page), Rights::READ, Page::Shared)
            }
            (_, Policy::DemandZero) => {
                let frame = self.take(client)?;
                memory.clear(frame);
                (frame, Rights::RW, Page::Own)
            }
            (_, Policy::CopyOnWrite) => {
                let frame = self.take(client)?;
                memory.copy(Frame(page), frame);
                (frame, Rights::RW, Page::Own)
            }
        };
        let place = &mut self.clients[client].pages[page];
        if state == Page::Shared {
            memory.unmap(client, page).map_err(Refusal::Kernel)?;
            *place = Page::Nothing;
        }
        memory.map(client, page, frame, rights).map_err(Refusal::Kernel)?;
        *place = next;
        Ok(())
    }

    fn take(&mut self, client: usize) -> Result<Frame, Refusal> {
        let left = &mut self.clients[client].left;
        if *left == 0 || self.next >= self.frames {
            return Err(Refusal::Limit);
        }
        *left -= 1;
        self.next += 1;
        Ok(Frame(self.next - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Memory of plain data: a number for what is in each frame, and what is mapped.
    #[derive(Default)]
    struct World {
        contents: BTreeMap<usize, u64>,
        mapped: BTreeMap<(usize, usize), (usize, Rights)>,
        fails: bool,
    }

    impl Memory for World {
        fn clear(&mut self, frame: Frame) {
            self.contents.insert(frame.0, 0);
        }

        fn copy(&mut self, from: Frame, to: Frame) {
            let content = self.contents[&from.0];
            self.contents.insert(to.0, content);
        }

        fn map(
            &mut self,
            client: usize,
            page: usize,
            frame: Frame,
            rights: Rights,
        ) -> Result<(), Status> {
            if self.fails {
                return Err(Status::Quota);
            }
            let before = self.mapped.insert((client, page), (frame.0, rights));
            assert_eq!(before, None);
            Ok(())
        }

        fn unmap(&mut self, client: usize, page: usize) -> Result<(), Status> {
            self.mapped.remove(&(client, page)).map(|_| ()).ok_or(Status::BadCapability)
        }
    }

    #[test]
    fn empty_pages_up_to_the_limit() {
        let mut world = World::default();
        let mut pager = Pager::new(Policy::DemandZero, 4, [2, 9, 0, 0]);
        world.contents.extend([(0, 7), (1, 7), (2, 7), (3, 7)]);
        assert_eq!(pager.fault(0, 15, Access::Read, &mut world), Ok(()));
        assert_eq!(pager.fault(0, 0, Access::Write, &mut world), Ok(()));
        assert_eq!(pager.fault(0, 1, Access::Write, &mut world), Err(Refusal::Limit));
        assert_eq!(pager.fault(2, 1, Access::Write, &mut world), Err(Refusal::Limit));
        assert_eq!(world.mapped[&(0, 15)], (0, Rights::RW));
        assert_eq!((world.contents[&0], world.contents[&1]), (0, 0));
        // A page that is there needs no frame.
        assert_eq!(pager.fault(0, 0, Access::Write, &mut world), Ok(()));
        // The other client gets what is left, and none that is somebody's.
        assert_eq!(pager.fault(1, 0, Access::Read, &mut world), Ok(()));
        assert_eq!(pager.fault(1, 1, Access::Read, &mut world), Ok(()));
        assert_eq!(pager.fault(1, 2, Access::Read, &mut world), Err(Refusal::Limit));
        let frames: Vec<usize> = world.mapped.values().map(|&(frame, _)| frame).collect();
        assert_eq!(frames, [1, 0, 2, 3]);
    }

    #[test]
    fn copies_of_what_is_written() {
        let mut world = World::default();
        world.contents.extend((0..PAGES).map(|i| (i, 100 + i as u64)));
        let mut pager = Pager::new(Policy::CopyOnWrite, PAGES + 3, [2, 2, 0, 0]);
        for client in 0..2 {
            assert_eq!(pager.fault(client, 5, Access::Read, &mut world), Ok(()));
            assert_eq!(world.mapped[&(client, 5)], (5, Rights::READ));
        }
        assert_eq!(pager.fault(0, 5, Access::Read, &mut world), Ok(()));
        assert_eq!(pager.fault(0, 5, Access::Write, &mut world), Ok(()));
        assert_eq!(world.mapped[&(0, 5)], (PAGES, Rights::RW));
        assert_eq!((world.contents[&5], world.contents[&PAGES]), (105, 105));
        assert_eq!(world.mapped[&(1, 5)], (5, Rights::READ));
        // Written without being read first.
        assert_eq!(pager.fault(1, 6, Access::Write, &mut world), Ok(()));
        assert_eq!(world.contents[&(PAGES + 1)], 106);
        // Who may have no copies can read.
        assert_eq!(pager.fault(2, 0, Access::Read, &mut world), Ok(()));
        assert_eq!(pager.fault(2, 0, Access::Write, &mut world), Err(Refusal::Limit));
        assert_eq!(world.mapped[&(2, 0)], (0, Rights::READ));
    }

    #[test]
    fn what_is_not_the_clients_is_refused() {
        let mut world = World::default();
        let mut pager = Pager::new(Policy::DemandZero, 4, [4; CLIENTS]);
        for (client, page) in [(CLIENTS, 0), (0, PAGES), (usize::MAX, usize::MAX)] {
            let answer = pager.fault(client, page, Access::Read, &mut world);
            assert_eq!(answer, Err(Refusal::Outside));
        }
        let answer = pager.fault(0, 0, Access::Execute, &mut world);
        assert_eq!(answer, Err(Refusal::Execute));
        world.fails = true;
        let answer = pager.fault(0, 0, Access::Read, &mut world);
        assert_eq!(answer, Err(Refusal::Kernel(Status::Quota)));
    }
}
