//! What is broken.
#![forbid(unsafe_code)]

/// A line of the kernel, and what is there instead.
pub struct Mutation {
    /// What goes wrong.
    pub name: &'static str,
    /// In `hypervisor/src`.
    pub file: &'static str,
    /// Part of a line that is in the file once.
    pub line: &'static str,
    /// What replaces it.
    pub instead: &'static str,
}

impl Mutation {
    /// The file's text with the mutation in it; `None` if that does not have the line once.
    pub fn apply(&self, text: &str) -> Option<String> {
        (text.matches(self.line).count() == 1).then(|| text.replace(self.line, self.instead))
    }
}

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    // Authority.
    Mutation {
        name: "rights of capabilities are not looked at",
        file: "domain.rs",
        line: "if !word.allows(rights) {",
        instead: "if false {",
    },
    Mutation {
        name: "a delegation adds rights",
        file: "delegate.rs",
        line: "let rights = rights & word.rights();",
        instead: "",
    },
    Mutation {
        name: "a badge is compared with the wrong mask",
        file: "delegate.rs",
        line: "Kind::Notification if from & !first != 0",
        instead: "Kind::Notification if from & first == 0",
    },
    Mutation {
        name: "a signal has bits that its badge has not",
        file: "slot.rs",
        line: "let badge = self.first.load(Ordering::Acquire);",
        instead: "let badge = self.first.load(Ordering::Acquire) | 1;",
    },
    Mutation {
        name: "a badge is believed that is somebody else's by now",
        file: "slot.rs",
        line: "(self.word() == word && turn() == before)",
        instead: "(self.word() == word || turn() == before)",
    },
    Mutation {
        name: "memory is mapped with rights that it has not",
        file: "space.rs",
        line: "if !memory.word().allows(rights) {",
        instead: "if false {",
    },
    Mutation {
        name: "a part of memory reaches a page too far",
        file: "delegate.rs",
        line: ".is_some_and(|end| end <= second);",
        instead: ".is_some_and(|end| end <= second + 0x1000);",
    },
    Mutation {
        name: "a thread is made in a domain that does not pay for it",
        file: "create.rs",
        line: "if domain != payer || space.header.payer != payer",
        instead: "if space.header.payer != payer",
    },
    Mutation {
        name: "what a message gives away is given twice",
        file: "delegate.rs",
        line: "if all.iter().flatten().any(twice) {",
        instead: "let _ = &twice;\n        if false {",
    },
    Mutation {
        name: "some capabilities of a message arrive though it fails",
        file: "delegate.rs",
        line: "all[number] = Some(checked);",
        instead: "carry_out(&tree, &checked);",
    },
    Mutation {
        name: "a message reaches beyond its receiver's window",
        file: "delegate.rs",
        line: "if count > (window.slots as usize).min(ITEMS) {",
        instead: "if count > ITEMS {",
    },
    Mutation {
        name: "a foreign thread handles calls",
        file: "create.rs",
        line: "if handler.foreign {",
        instead: "if false {",
    },
    // Trees and lists.
    Mutation {
        name: "a capability is not unlinked from the next one",
        file: "slot.rs",
        line: "next.places[list as usize].prev.store(prev, Ordering::Relaxed);",
        instead: "let _ = next;",
    },
    Mutation {
        name: "revocation forgets grandchildren",
        file: "destroy.rs",
        line: "grandchild.link_under(tree, &slot);",
        instead: "let _ = &slot;",
    },
    Mutation {
        name: "portals keep a handler that has ended",
        file: "destroy.rs",
        line: "if portal::unbind_some(thread) == Progress::Again {",
        instead: "if thread.is_busy() && portal::unbind_some(thread) == Progress::Again {",
    },
    Mutation {
        name: "a space ends that is used",
        file: "destroy.rs",
        line: "Kind::Space => object::downcast::<Space>(object)?.user(tree).is_some(),",
        instead: "Kind::Space => false,",
    },
    // Quotas.
    Mutation {
        name: "a quota is a page larger than it says",
        file: "domain.rs",
        line: "free.checked_sub(pages)",
        instead: "(free + 1).checked_sub(pages).map(|free| free.saturating_sub(1))",
    },
    Mutation {
        name: "the end of a domain does not return its quota",
        file: "domain.rs",
        line: "payer.uncharge(pages);",
        instead: "let _ = (payer, pages);",
    },
    Mutation {
        name: "the end of a thread loses a page",
        file: "destroy.rs",
        line: "[thread.utcb, own].map(|page| payer.free_page(page)).len()",
        instead: "[own].map(|page| payer.free_page(page)).len() + usize::from(thread.foreign)",
    },
    Mutation {
        name: "what is taken back of a quota stays",
        file: "domain.rs",
        line: "domain.limit.fetch_sub(pages, Ordering::Relaxed);",
        instead: "",
    },
    // Signals.
    Mutation {
        name: "a doorbell outlives its capability",
        file: "space.rs",
        line: "space.doorbells.remove(slot.first.load(Ordering::Relaxed));",
        instead: "",
    },
    Mutation {
        name: "a doorbell is a byte too long",
        file: "doorbell.rs",
        line: "if at - page.read(word) >= page.read(word + 1) {",
        instead: "if at - page.read(word) > page.read(word + 1) {",
    },
    Mutation {
        name: "who waits is looked for before the bits are set",
        file: "syscall.rs",
        line: "let bits = notification.take();",
        instead: "let bits = if deadline == 0 { notification.take() } else { 0 };",
    },
    Mutation {
        name: "who is woken does not compete again",
        file: "context.rs",
        line: "        self.state.set(State::Ready);\n        self.release_waiters(cpu);",
        instead: "        self.state.set(State::Ready);\n        let _ = cpu;",
    },
    Mutation {
        name: "a second signal from another CPU is taken for the first",
        file: "cpu.rs",
        line: "notification.posted.store(false, Ordering::Release);",
        instead: "let _ = notification;",
    },
    Mutation {
        name: "a notification that is posted tells nobody",
        file: "cpu.rs",
        line: "notification.posted_next.set(self.notifications.replace(notification));",
        instead: "notification.posted_next.set(self.notifications.replace(notification));\n                \
                  return false;",
    },
    Mutation {
        name: "a guest halts though it was kicked",
        file: "vcpu.rs",
        line: "if halt && !kicked() {",
        instead: "if halt && (true || !kicked()) {",
    },
    Mutation {
        name: "a signal of no bits ends a halt",
        file: "notification.rs",
        line: "State::Halted if notification.is_set() => waiter.wake(cpu),",
        instead: "State::Halted => waiter.wake(cpu),",
    },
    Mutation {
        name: "an edge is lost that comes before the acknowledgement",
        file: "interrupt.rs",
        line: "state.again = true;",
        instead: "state.again = false;",
    },
    // Calls.
    Mutation {
        name: "calls nest without end",
        file: "ipc.rs",
        line: "handler.context.depth.set(caller.depth.get() + 1);",
        instead: "handler.context.depth.set(1);",
    },
    Mutation {
        name: "a call wakes the time that its handler has of its own",
        file: "ipc.rs",
        line: "handler.context.reply_path.set(ReplyPath::Thread);\n    let message",
        instead: "handler.context.reply_path.set(ReplyPath::Thread);\n    handler.context.release_waiters(cpu);\n    let message",
    },
    Mutation {
        name: "a client goes on on the time of its handler",
        file: "sched.rs",
        line: "home.reply_path.set(ReplyPath::General);",
        instead: "let _ = ReplyPath::General;",
    },
    Mutation {
        name: "a caller is not told that its server has ended",
        file: "ipc.rs",
        line: "frame.set_result(Status::Dead);",
        instead: "let _ = Status::Dead;",
    },
    Mutation {
        name: "a call that would wait for itself waits",
        file: "ipc.rs",
        line: "if waits_for(handler.context(), caller) {",
        instead: "if handler.context() == caller {",
    },
    Mutation {
        name: "a handler serves a client that has ended",
        file: "destroy.rs",
        line: "callee.caller.set(None);",
        instead: "let _ = callee;",
    },
    Mutation {
        name: "a helper does not let go of its handler",
        file: "destroy.rs",
        line: "thread.context.dismiss_helpers()",
        instead: "Progress::Done",
    },
    // Time.
    Mutation {
        name: "a migration founds a partition, and raises the priority",
        file: "migrate.rs",
        line: "(_, Some(sched)) if !request.limit.includes(sched.limit()) =>",
        instead: "(_, Some(sched)) if sched.budget == u64::MAX =>",
    },
    Mutation {
        name: "an overrun is told more than once in a period",
        file: "overrun.rs",
        line: "sched.overrun_told.set(true);",
        instead: "",
    },
    Mutation {
        name: "who wakes with its budget spent does not overrun",
        file: "sched.rs",
        line: "if sched.replenish.is_armed() {\n        return is_spent(sched);",
        instead: "if sched.replenish.is_armed() {\n        return;",
    },
    Mutation {
        name: "a window is open before it begins",
        file: "cyclic.rs",
        line: "Some(window) if window.start <= offset =>",
        instead: "Some(window) =>",
    },
    Mutation {
        name: "the lower priority pre-empts",
        file: "sched.rs",
        line: "running.priority < sched.priority",
        instead: "running.priority > sched.priority",
    },
    Mutation {
        name: "who yields goes first",
        file: "sched.rs",
        line: "requeue(cpu, running, now, !cpu.yielded.get());",
        instead: "requeue(cpu, running, now, true);",
    },
    Mutation {
        name: "a budget comes back too early",
        file: "sched.rs",
        line: "now.saturating_add(sched.period - sched.budget)",
        instead: "now.saturating_add(sched.budget)",
    },
    Mutation {
        name: "deadlines are in the wrong order",
        file: "timeout.rs",
        line: "if b.deadline.get() < a.deadline.get() => {",
        instead: "if b.deadline.get() > a.deadline.get() => {",
    },
    Mutation {
        name: "time stays with what has ended",
        file: "destroy.rs",
        line: "        sched::unbind(cpu, sched);\n    }",
        instead: "        let _ = (cpu, sched);\n    }",
    },
    // Other CPUs.
    Mutation {
        name: "time is started where its thread was",
        file: "cpu.rs",
        line: "if sched.cpu() != context.cpu() {",
        instead: "if sched.cpu() == u32::MAX {",
    },
    Mutation {
        name: "time is where it goes before its thread is",
        file: "cpu.rs",
        line: "            context.cpu.store(self.index, Ordering::Release);\n",
        instead: "            sched.inspect(|sched| sched.cpu.store(self.index, Ordering::Release));\n            \
                  context.cpu.store(self.index, Ordering::Release);\n",
    },
    Mutation {
        name: "time is bound to who is about to leave",
        file: "migrate.rs",
        line: "if sched.is_none() && context.started.swap(true, Ordering::AcqRel) {",
        instead: "if sched.is_none() && context.started.swap(true, Ordering::AcqRel) && sched.is_some() {",
    },
    Mutation {
        name: "a handler is called before it has arrived",
        file: "ipc.rs",
        line: "handler.context.cpu() == cpu.index\n        && matches!(handler.context.state.get(), State::Idle | State::New)",
        instead: "matches!(handler.context.state.get(), State::Idle | State::New)\n        && handler.context.cpu() == cpu.index",
    },
    Mutation {
        name: "capabilities arrive without their message",
        file: "ipc.rs",
        line: "enter(cpu, thread.context(), handler)?",
        instead: "enter(cpu, thread.context(), portal.handler())?",
    },
    Mutation {
        name: "an unfinished system call is taken for the next one",
        file: "ipc.rs",
        line: "client.sync.set(None);",
        instead: "let _ = client;",
    },
    Mutation {
        name: "who begins to wait does not look whether its capability is gone",
        file: "syscall.rs",
        line: "if !slot.still_holds(word) {",
        instead: "if !slot.still_holds(word) && waits != waits {",
    },
    Mutation {
        name: "who waits goes on without its capability",
        file: "notification.rs",
        line: "waiter.ended = true;",
        instead: "",
    },
    Mutation {
        name: "a binding outlives the capability to what signals",
        file: "binding.rs",
        line: "Kind::Interrupt | Kind::Sched | Kind::Log",
        instead: "Kind::Interrupt | Kind::Log",
    },
    Mutation {
        name: "a binding outlives the capability to the notification",
        file: "destroy.rs",
        line: "} else if !binding::unbind_one(tree, &child) {",
        instead: "} else {",
    },
    Mutation {
        name: "what is bound is given away",
        file: "delegate.rs",
        line: "source.is_bound()",
        instead: "(source.is_bound() && source.is_free())",
    },
    Mutation {
        name: "a signal is lost that comes during a migration",
        file: "migrate.rs",
        line: "notification::arrive(cpu, notification);",
        instead: "let _ = notification;",
    },
    Mutation {
        name: "a deadline stays behind",
        file: "migrate.rs",
        line: "cpu.timeouts.arm(&context.timeout, deadline);",
        instead: "let _ = deadline;",
    },
    Mutation {
        name: "what ends shows its address as a badge",
        file: "slot.rs",
        line: "let ending = self.own_object();",
        instead: "let ending = self.own_object(); if ending != 0 { self.first.store(ending, Ordering::Release); }",
    },
    Mutation {
        name: "a slot does not count what it held",
        file: "slot.rs",
        line: "turns.wrapping_add(TURN) | flags",
        instead: "turns | flags",
    },
    Mutation {
        name: "an epoch ends before all have passed it",
        file: "epoch.rs",
        line: "cpu.epoch.load(Ordering::SeqCst) >= epoch",
        instead: "cpu.epoch.load(Ordering::SeqCst) + 1 >= epoch",
    },
    Mutation {
        name: "who is asked to pass an epoch is content with the one before",
        file: "epoch.rs",
        line: "cpu.stale.fetch_max(epoch, Ordering::SeqCst);\n        if",
        instead: "if",
    },
    Mutation {
        name: "translations outlive an epoch",
        file: "epoch.rs",
        line: "crate::arch::flush_translations(me);",
        instead: "let _ = crate::arch::flush_translations;",
    },
    Mutation {
        name: "an epoch ends before what was posted is served",
        file: "epoch.rs",
        line: "if me.is_inbox_empty() {",
        instead: "if true {",
    },
    Mutation {
        name: "a notification ends before who is kicked by it has arrived",
        file: "destroy.rs",
        line: "if waiter.state.get() == State::Moving {",
        instead: "if false {",
    },
    Mutation {
        name: "memory is reused before the epoch after its end",
        file: "destroy.rs",
        line: "object.ending_next.store(epoch, Ordering::Relaxed);",
        instead: "let _ = epoch;\n    object.ending_next.store(0, Ordering::Relaxed);",
    },
    Mutation {
        name: "a start arrives at what has ended",
        file: "cpu.rs",
        line: "if context.header.ending() != Ending::Alive {",
        instead: "if false {",
    },
    Mutation {
        name: "a bind that fails leaves a start behind",
        file: "cpu.rs",
        line: "        sched.bound.store(false, Ordering::Release);\n        return Err(Status::Busy);",
        instead: "        return Err(Status::Busy);",
    },
    Mutation {
        name: "a period ends before the start arrives",
        file: "sched.rs",
        line: "sched.home.get().is_some_and(|home| home.sched.get() == Some(sched))",
        instead: "sched.home.get().is_some()",
    },
    Mutation {
        name: "what goes with a domain is delegated on and on",
        file: "destroy.rs",
        line: "close(cpu, tree, slot)?;\n        if",
        instead: "if",
    },
    // The ABI.
    Mutation {
        name: "a status that is not declared is returned",
        file: "interrupt.rs",
        line: "return Err(Status::Busy);",
        instead: "return Err(Status::Occupied);",
    },
    Mutation {
        name: "a failing call returns registers as they were",
        file: "syscall.rs",
        line: "        frame.scrub();\n",
        instead: "",
    },
];
