//! The pager on the machine.
use crate::policy::{Frame, Memory, Pager};
use crate::{CLIENTS, PAGES};
use abi::{PAGE_SIZE, Rights, Selector, Status};
use rt::exception::{self, Exception, ExceptionReply};
use rt::ipc::Message;
use rt::shared::SharedMemory;
use rt::syscall::{self, MapParameters};

/// What a pager holds.
#[derive(Debug)]
pub struct Resources {
    /// The memory that it gives, with the rights to read and write.
    pub memory: Selector,
    /// The same, mapped in its own space.
    pub frames: SharedMemory,
    /// The first of its clients' spaces, which follow each other.
    pub spaces: Selector,
    /// The first of [`CLIENTS`] × [`PAGES`] empty selectors, for mappings.
    pub mappings: Selector,
    /// Where the memory begins that it gives to clients, in their spaces.
    pub address: u64,
}

const PAGE: usize = PAGE_SIZE;

impl Resources {
    fn mapping(&self, client: usize, page: usize) -> Selector {
        self.mappings.offset((client * PAGES + page) as u32)
    }
}

impl Memory for Resources {
    fn clear(&mut self, frame: Frame) {
        // The frame is one of those that the pager was made with.
        let _ = self.frames.zero(frame.0 * PAGE, PAGE);
    }

    fn copy(&mut self, from: Frame, to: Frame) {
        let mut bytes = [0; 512];
        for at in (0..PAGE).step_by(bytes.len()) {
            // As above.
            let _ = self.frames.read(from.0 * PAGE + at, &mut bytes);
            let _ = self.frames.write(to.0 * PAGE + at, &bytes);
        }
    }

    fn map(
        &mut self,
        client: usize,
        page: usize,
        frame: Frame,
        rights: Rights,
    ) -> Result<(), Status> {
        let parameters = MapParameters {
            offset: (frame.0 * PAGE) as u64,
            address: self.address + (page * PAGE) as u64,
            size: PAGE as u64,
            rights,
        };
        let space = self.spaces.offset(client as u32);
        syscall::map(self.memory, space, self.mapping(client, page), &parameters)
    }

    fn unmap(&mut self, client: usize, page: usize) -> Result<(), Status> {
        syscall::delete(self.mapping(client, page))
    }
}

/// What a pager has done for a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Page faults after which the client went on.
    pub served: u64,
    /// Exceptions after which it did not.
    pub refused: u64,
}

/// A pager that serves. Portals of its thread carry the number of their client as identity.
#[derive(Debug)]
pub struct Server {
    pager: Pager,
    resources: Resources,
    accounts: [Account; CLIENTS],
}

impl Server {
    /// A pager with its books and what it holds.
    pub fn new(pager: Pager, resources: Resources) -> Server {
        Server { pager, resources, accounts: [Account::default(); CLIENTS] }
    }

    /// Answers an exception of a client; returns the client's number and account.
    pub fn serve(&mut self, message: &mut Message<'_>) -> Option<(usize, Account)> {
        message.utcb_words = 0;
        let client = message.identity as usize;
        let fault = Exception::from_words(message.words).page_fault();
        let served = fault.is_some_and(|fault| {
            let offset = fault.address.wrapping_sub(self.resources.address);
            let page = (offset / PAGE as u64) as usize;
            let answer = self.pager.fault(client, page, fault.access, &mut self.resources);
            answer.is_ok()
        });
        if served {
            exception::resume(message.words, ExceptionReply::empty());
        } else {
            exception::stop(message.words);
        }
        let account = self.accounts.get_mut(client)?;
        if served {
            account.served += 1;
        } else {
            account.refused += 1;
        }
        Some((client, *account))
    }
}
