//! What is true of every state of the system.

use super::super::world::RAM_SIZE;
use super::running::State;
use super::{CELLS, Cap, Id, Model, Object, Place, vcpu_pages};
use crate::domain::Domain;
use crate::mem::PAGE;
use abi::cap::Kind;

impl Model {
    /// Checks everything.
    pub fn check(&self) {
        for (&at, cap) in &self.caps {
            self.check_authority(at, cap);
        }
        for (&id, (object, payer)) in &self.objects {
            match object {
                Object::Domain(_) => self.check_quota(id),
                Object::Space(_) => self.check_frames(id),
                Object::Thread(_) | Object::Vcpu(_) => self.check_context(id),
                Object::Notification(_) => self.check_waiter(id),
                Object::Sched(sched) => {
                    let home = sched.home.map(|home| self.context(home));
                    assert!(
                        home.is_none_or(|home| home.sched == Some(id) && home.cpu == sched.cpu)
                    );
                }
                Object::Portal(portal) => {
                    assert!(portal.handler.is_none_or(|id| self.is_thread(id)));
                }
                Object::Line(_) => assert_eq!(*payer, None),
            }
        }
        for (index, cpu) in self.cpus.iter().enumerate() {
            let sched = cpu.running.map(|id| self.sched(id).cpu);
            assert!(sched.is_none_or(|cpu| cpu as usize == index));
        }
    }

    /// Authority only ever comes from a capability that is held.
    fn check_authority(&self, at: Place, cap: &Cap) {
        assert!(self.objects.contains_key(&at.0), "{at:?} is nowhere");
        if let Some(object) = cap.object {
            assert!(self.objects.contains_key(&object), "{at:?} names nothing");
        }
        let Some(from) = cap.parent else {
            // What was made, or was there from the start.
            let first = match cap.kind {
                Kind::Memory => cap.second == RAM_SIZE,
                Kind::Domain => cap.object == Some(0),
                Kind::Time => (cap.first, cap.second) == (u64::MAX, 127),
                kind => matches!(kind, Kind::Null | Kind::Interrupt),
            };
            assert!(cap.origin || first, "{at:?} comes from nowhere");
            return;
        };
        let parent = &self.caps[&from];
        match (cap.kind, parent.kind) {
            (Kind::Mapping, Kind::Memory | Kind::Notification) => return,
            (Kind::Memory, Kind::Memory) => {
                let (end, last) = (cap.first + cap.second, parent.first + parent.second);
                let inside = cap.first >= parent.first && end <= last;
                assert!(inside, "{at:?} is more than {from:?}");
            }
            (Kind::Notification, Kind::Notification) => {
                assert_eq!(cap.first & !parent.first, 0, "{at:?} signals more than {from:?}");
            }
            (Kind::Time, Kind::Time) => {
                let [(priority, partition), (most, of)] =
                    [cap, parent].map(|cap| (cap.second & 0xff, cap.second >> 8));
                let inside = cap.first & !parent.first == 0 && priority <= most;
                let inside = inside && (of == 0 || partition == of);
                assert!(inside, "{at:?} is more than {from:?}");
            }
            (kind, of) => assert_eq!(kind, of),
        }
        assert_eq!(cap.object, parent.object);
        assert!(parent.rights.contains(cap.rights), "{at:?} allows more than {from:?}");
    }

    /// Everything that a domain pays is accounted for, and no more than its quota.
    fn check_quota(&self, id: Id) {
        let table = self.table(id);
        let (mut pages, mut cells) = (0, 0);
        for (object, _) in self.objects.values().filter(|(_, payer)| *payer == Some(id)) {
            match object {
                Object::Domain(paid) => pages += Domain::overhead(paid.slots) + paid.limit,
                Object::Space(space) => {
                    pages += space.paid();
                    cells += 1;
                }
                Object::Thread(_) => pages += 2,
                Object::Vcpu(_) => pages += vcpu_pages(),
                _ => cells += 1,
            }
        }
        // The root has things from the start that the model does not have.
        if id != 0 {
            assert!((cells + table.cells).is_multiple_of(CELLS));
            assert_eq!(table.used, pages + (cells + table.cells) / CELLS, "{id}");
        }
        assert!(table.used <= table.limit);
    }

    /// A frame is reachable in a space only by a mapping there, from memory that holds it.
    fn check_frames(&self, space: Id) {
        let mut pages = self.space(space).pages.clone();
        let mut doorbells = self.space(space).doorbells.clone();
        let maps = |cap: &Cap| cap.kind == Kind::Mapping && cap.object == Some(space);
        for cap in self.caps.values().filter(|cap| maps(cap)) {
            if self.is_doorbell(cap) {
                let signals = &self.caps[&cap.parent.unwrap()];
                let (size, n, bits) = doorbells.remove(&cap.first).expect("it is bound");
                assert_eq!((size, Some(n)), (cap.second, signals.object));
                assert_eq!(bits & !signals.first, 0, "it rings more than it may");
                continue;
            }
            let memory = &self.caps[&cap.parent.unwrap()];
            for page in cap.first / PAGE..(cap.first + cap.second) / PAGE {
                let (frame, rights) = pages.remove(&page).expect("a mapping maps");
                let frame = frame.expect("what was mapped is no page of the kernel's") * PAGE;
                assert!(frame >= memory.first && frame < memory.first + memory.second);
                assert!(memory.rights.contains(rights));
            }
        }
        for (object, _) in self.objects.values() {
            let shared = match object {
                Object::Thread(thread) if thread.space == space => thread.utcb,
                Object::Vcpu(vcpu) if vcpu.monitor == space => vcpu.page,
                _ => continue,
            };
            let (frame, _) = pages.remove(&(shared / PAGE)).expect("it is mapped");
            assert_eq!(frame, None);
        }
        assert!(doorbells.is_empty(), "space {space}: nobody bound {doorbells:x?}");
        assert!(pages.is_empty(), "space {space}: nobody gave it {pages:x?}");
    }

    /// The life of a call: who waits is waited for, and by one only.
    fn check_context(&self, id: Id) {
        let context = self.context(id);
        match context.state {
            State::InCall(handler) => assert_eq!(self.thread(handler).caller, Some(id)),
            State::Helping(handler) => assert_ne!(handler, id),
            State::Waiting(n, _) => {
                assert_eq!(self.notification(n).waiter, Some(id));
            }
            State::Halted => assert!(!self.is_thread(id)),
            _ => {}
        }
        if let Some(sched) = context.sched {
            assert_eq!(self.sched(sched).home, Some(id));
        }
        if !self.is_thread(id) {
            assert!(self.vcpu(id).kick.is_none_or(|n| self.notification(n).waiter == Some(id)));
            return;
        }
        let thread = self.thread(id);
        if let Some(caller) = thread.caller {
            assert_eq!(self.state(caller), State::InCall(id));
            assert!(!matches!(context.state, State::New | State::Idle | State::Stopped));
        }
        assert!(!thread.in_exception || matches!(context.state, State::InCall(_)));
    }

    /// No wake-up is lost: nobody waits for what is there, or it is on its way.
    fn check_waiter(&self, id: Id) {
        let notification = self.notification(id);
        let Some(waiter) = notification.waiter else {
            return;
        };
        let waits = match self.state(waiter) {
            State::Waiting(n, _) => n == id,
            // It looks when it is there.
            State::Moving => false,
            state => {
                assert_eq!(self.vcpu(waiter).kick, Some(id));
                state == State::Halted
            }
        };
        let cpu = &self.cpus[self.context(waiter).cpu as usize];
        assert!(!waits || notification.word == 0 || cpu.posted.contains(&id), "lost wake-up");
    }
}
