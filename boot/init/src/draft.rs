//! A program on its way from description to life.
use crate::desk::{PortalKind, ProgramId, identity};
use crate::frames::Chunk;
use crate::root::{Doing, Failure, Result, Root};
use abi::boot::{ROOT_BUNDLE, ROOT_DOMAIN, ROOT_LOG, ROOT_MEMORY, ROOT_TIME};
use abi::bundle::Segment;
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::{Badge, PAGE_SIZE, Rights, Selector};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use image::system::Compartment;
use rt::arch;
use rt::env::{Environment, FileView, Role};
use rt::layout;
use rt::syscall::{self, Cpu, MapParameters, ThreadParameters, Time};

/// Slots in a program's capability table.
const SLOTS: u32 = 1024;
/// Part of a program's memory that becomes its stack, and its bounds.
const STACK_PART: u64 = 8;
const STACK: core::ops::RangeInclusive<u64> = 16 << 10..=128 << 10;

/// A domain with a host space, whose program does not run yet.
#[derive(Debug)]
pub struct Draft {
    /// Its number.
    pub id: ProgramId,
    name: String,
    compartment: Compartment,
    domain: Selector,
    space: Selector,
    next: u32,
    files_end: u64,
    remains: Remains,
}

/// What has to be returned when a program ends.
#[derive(Debug, Default)]
pub struct Remains {
    /// Its domain.
    pub domain: Option<Selector>,
    selectors: Vec<Selector>,
    chunks: Vec<Chunk>,
    /// Mappings of its code.
    pub code: Vec<Selector>,
}

impl Remains {
    /// Ends the program, and takes back all that it was given.
    pub fn destroy(&mut self, root: &mut Root) {
        if let Some(domain) = self.domain.take() {
            if let Err(status) = syscall::delete(domain) {
                // Its memory may still be in use: it is not given to anybody else.
                log::error!("a domain could not be destroyed: {}", status.name());
                return;
            }
            root.release(Vec::from([domain]));
        }
        root.release(core::mem::take(&mut self.selectors));
        self.chunks.drain(..).for_each(|chunk| root.frames.give_back(chunk));
    }
}

impl Draft {
    /// Makes domain and space of a program that will have threads on `cpus`.
    pub fn new(
        root: &mut Root,
        id: ProgramId,
        name: &str,
        compartment: &Compartment,
        cpus: &[Cpu],
    ) -> Result<Draft> {
        let mut remains = Remains::default();
        match Self::build(root, id, name, compartment, cpus, &mut remains) {
            Ok((domain, space)) => Ok(Draft {
                id,
                name: name.into(),
                compartment: compartment.clone(),
                domain,
                space,
                next: layout::ROLE_SELECTORS.0,
                files_end: layout::FILES.start,
                remains,
            }),
            Err(failure) => {
                remains.destroy(root);
                Err(failure)
            }
        }
    }

    fn build(
        root: &mut Root,
        id: ProgramId,
        name: &str,
        compartment: &Compartment,
        cpus: &[Cpu],
        remains: &mut Remains,
    ) -> Result<(Selector, Selector)> {
        let domain = root.selector()?;
        let pages = compartment.quota.count().into();
        syscall::create_domain(ROOT_DOMAIN, domain, pages, SLOTS.into())
            .doing(&format!("create the domain of {name} with {pages} pages of kernel memory"))?;
        remains.domain = Some(domain);
        let space = take(root, remains)?;
        syscall::create_space(domain, space, SpaceKind::Host).doing("create a space")?;
        let own = Rights::CREATE | Rights::INSTALL | Rights::CONTROL | Rights::DELEGATE;
        let common = [
            (domain, layout::DOMAIN, own),
            (space, layout::SPACE, Rights::INSTALL),
            (ROOT_LOG, layout::LOG, Rights::WRITE),
        ];
        for (capability, dst, rights) in common {
            syscall::delegate(capability, domain, dst, rights).doing("delegate a capability")?;
        }
        let mut portal = |cpu, kind, dst| {
            let handler = root.handler(cpu)?;
            let portal = take(root, remains)?;
            syscall::create_portal(domain, portal, handler, identity(id, kind), 0)
                .doing("create a portal")?;
            syscall::delegate(portal, domain, dst, Rights::CALL).doing("delegate a portal")
        };
        let main = compartment.cpu.number();
        portal(main, PortalKind::Supervisor, layout::SUPERVISOR)?;
        let mut cpus: Vec<Cpu> = cpus.iter().copied().chain([main]).collect();
        cpus.sort_unstable();
        cpus.dedup();
        for cpu in cpus {
            portal(cpu, PortalKind::Exceptions, layout::EXCEPTION_PORTALS.offset(cpu))?;
        }
        Ok((domain, space))
    }

    /// The program's domain.
    pub fn domain(&self) -> Selector {
        self.domain
    }

    /// A selector in the program's table for a capability of its role.
    pub fn place(&mut self) -> Selector {
        self.next += 1;
        Selector(self.next - 1)
    }

    /// Gives the program a capability.
    pub fn give(&mut self, capability: Selector, rights: Rights) -> Result<Selector> {
        let dst = self.place();
        syscall::delegate(capability, self.domain, dst, rights).doing("delegate a capability")?;
        Ok(dst)
    }

    /// Gives the program a part of a memory capability (ports: in ports).
    pub fn give_memory(
        &mut self,
        memory: Selector,
        rights: Rights,
        offset: u64,
        size: u64,
    ) -> Result<Selector> {
        let dst = self.place();
        syscall::delegate_memory(memory, self.domain, dst, rights, offset, size)
            .doing("delegate memory")?;
        Ok(dst)
    }

    /// Makes a notification that the program pays for and may wait for and signal. Returns the root
    /// task's selector and the program's.
    pub fn make_notification(&mut self, root: &mut Root) -> Result<(Selector, Selector)> {
        let own = take(root, &mut self.remains)?;
        syscall::create_notification(self.domain, own).doing("create a notification")?;
        let dst = self.place();
        let rights = Rights::WAIT | Rights::SIGNAL | Rights::DELEGATE;
        syscall::delegate_notification(own, self.domain, dst, rights, Badge(u64::MAX))
            .doing("delegate a notification")?;
        Ok((own, dst))
    }

    /// Makes a scheduling context of the program's priority.
    pub fn make_sched(&mut self, root: &mut Root, cpu: Cpu) -> Result<Selector> {
        let sched = take(root, &mut self.remains)?;
        let time = Time { priority: self.compartment.priority.number(), ..Time::default() };
        syscall::create_sched(self.domain, sched, ROOT_TIME, cpu, time)
            .doing("create a scheduling context")?;
        Ok(sched)
    }

    /// Maps a file of the bundle for reading, its contents checked.
    pub fn map_file(&mut self, root: &mut Root, name: &str) -> Result<FileView> {
        let (offset, size) = match root.bundle.file(name) {
            Ok((file, _)) => (file.offset, file.size),
            Err(error) => return Err(Failure(format!("{error}"))),
        };
        let address = self.files_end;
        let mapped = size.next_multiple_of(PAGE_SIZE as u64);
        self.files_end = address + mapped + PAGE_SIZE as u64;
        if self.files_end > layout::FILES.end {
            return Err(Failure(format!("the file {name} is too large")));
        }
        self.map(root, ROOT_BUNDLE, offset, address, mapped, Rights::READ)?;
        Ok(FileView { address, size })
    }

    fn map(
        &mut self,
        root: &mut Root,
        memory: Selector,
        offset: u64,
        address: u64,
        size: u64,
        rights: Rights,
    ) -> Result<Selector> {
        let selector = take(root, &mut self.remains)?;
        let parameters = MapParameters { offset, address, size, rights };
        syscall::map(memory, self.space, selector, &parameters)
            .doing(&format!("map {} KiB at {address:#x}", size >> 10))?;
        Ok(selector)
    }

    /// Starts the program with its role. What it returns is to be destroyed when the program ends.
    pub fn start(mut self, root: &mut Root, role: Role) -> core::result::Result<Remains, Failure> {
        match self.try_start(root, role) {
            Ok(()) => Ok(self.remains),
            Err(failure) => {
                self.remains.destroy(root);
                Err(failure)
            }
        }
    }

    /// Gives up: nothing of the program stays.
    pub fn abandon(mut self, root: &mut Root) {
        self.remains.destroy(root);
    }

    fn try_start(&mut self, root: &mut Root, role: Role) -> Result {
        let program = match root.bundle.program(self.compartment.program.as_str()) {
            Ok(program) => program.clone(),
            Err(error) => return Err(Failure(format!("{error}"))),
        };
        let writable = |segment: &Segment| rights(segment).contains(Rights::WRITE);
        let total = self.compartment.memory.bytes();
        let page = PAGE_SIZE as u64;
        let stack = (total / STACK_PART).clamp(*STACK.start(), *STACK.end()) / page * page;
        let heap = total - stack;
        let cpu = self.compartment.cpu.number();
        let environment = Environment {
            name: self.name.clone(),
            cpu,
            counter_hz: root.info.counter_hz,
            first_selector: self.next,
            end_selector: SLOTS,
            role,
        };
        let environment = environment
            .to_pages(layout::HEAP_ADDRESS, heap)
            .map_err(|_| Failure("the environment is too large".into()))?;

        // One piece of RAM holds, in this order: copies of the writable segments, the environment,
        // the stack, the heap. The latter two are zero.
        let copies: u64 = program.segments.iter().filter(|s| writable(s)).map(|s| s.size).sum();
        let chunk = root.take(copies + environment.len() as u64 + stack + heap)?;
        self.remains.chunks.push(chunk);
        let mut contents = Vec::new();
        for segment in program.segments.iter().filter(|s| writable(s)) {
            contents.push(root.bundle.segment(segment).map_err(|e| Failure(format!("{e}")))?);
        }
        root.fill(chunk, |window| {
            let mut at = 0;
            for part in contents.into_iter().chain([environment.as_slice()]) {
                // The parts fit: the chunk has the size of their sum.
                let _ = window.write(at, part);
                at += part.len();
            }
            let _ = window.zero(at, window.size() - at);
        })?;

        let ram = ROOT_MEMORY.offset(chunk.region);
        let mut at = chunk.offset;
        for segment in &program.segments {
            let rights = rights(segment);
            let (address, size) = (segment.address, segment.size);
            if writable(segment) {
                self.map(root, ram, at, address, size, rights)?;
                at += size;
            } else {
                if rights.contains(Rights::EXEC) {
                    let code = root.bundle.segment(segment);
                    let code = code.map_err(|e| Failure(format!("{e}")))?.as_ptr_range();
                    arch::make_executable(code.start as usize..code.end as usize);
                }
                let mapping = self.map(root, ROOT_BUNDLE, segment.offset, address, size, rights)?;
                if rights.contains(Rights::EXEC) {
                    self.remains.code.push(mapping);
                }
            }
        }
        let size = environment.len() as u64;
        self.map(root, ram, at, layout::ENVIRONMENT_ADDRESS, size, Rights::READ)?;
        at += size;
        self.map(root, ram, at, layout::STACK_TOP - stack, stack, Rights::RW)?;
        at += stack;
        self.map(root, ram, at, layout::HEAP_ADDRESS, heap, Rights::RW)?;

        let thread = take(root, &mut self.remains)?;
        let parameters = ThreadParameters {
            domain: self.domain,
            space: self.space,
            cpu,
            utcb: layout::UTCB_ADDRESS,
            ip: program.entry,
            sp: layout::STACK_TOP,
            exceptions: layout::EXCEPTION_PORTALS.offset(cpu),
            flags: ThreadFlags::empty(),
        };
        syscall::create_thread(self.domain, thread, &parameters).doing("create a thread")?;
        syscall::delegate(thread, self.domain, layout::THREAD, Rights::CONTROL)
            .doing("delegate a thread")?;
        let sched = self.make_sched(root, cpu)?;
        syscall::bind_sched(sched, thread).doing("start a thread")
    }

    /// Makes a handler thread in the program `remains`, at an entry that the program named, and a portal
    /// to it; returns the portal's selector. The entry may be of no use: then nothing is kept, as the program can name as
    /// many as it likes.
    pub fn export(
        root: &mut Root,
        remains: &mut Remains,
        space: Selector,
        cpu: Cpu,
        entry: rt::handler::Entry,
        identity: u64,
    ) -> Result<Selector> {
        let Some(domain) = remains.domain else {
            return Err(Failure("the program has ended".into()));
        };
        let before = remains.selectors.len();
        Self::make_handler(root, remains, domain, space, cpu, entry, identity)
            .inspect_err(|_| root.release(remains.selectors.split_off(before)))
    }

    fn make_handler(
        root: &mut Root,
        remains: &mut Remains,
        domain: Selector,
        space: Selector,
        cpu: Cpu,
        entry: rt::handler::Entry,
        identity: u64,
    ) -> Result<Selector> {
        let thread = take(root, remains)?;
        let parameters = ThreadParameters {
            domain,
            space,
            cpu,
            utcb: entry.utcb,
            ip: entry.ip,
            sp: entry.sp,
            exceptions: layout::EXCEPTION_PORTALS.offset(cpu),
            flags: ThreadFlags::empty(),
        };
        syscall::create_thread(domain, thread, &parameters).doing("create a handler thread")?;
        let portal = take(root, remains)?;
        syscall::create_portal(domain, portal, thread, identity, 0).doing("create a portal")?;
        Ok(portal)
    }

    /// The program's space.
    pub fn space(&self) -> Selector {
        self.space
    }
}

fn rights(segment: &Segment) -> Rights {
    Rights::from_bits_truncate(segment.rights as u16)
}

/// A selector of the root task that is released with the program.
fn take(root: &mut Root, remains: &mut Remains) -> Result<Selector> {
    let selector = root.selector()?;
    remains.selectors.push(selector);
    Ok(selector)
}
