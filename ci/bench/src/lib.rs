//! Measures what isolation costs: system calls, IPC, mappings, objects, system calls that are told to a handler, VM exits;
//! and whether IPC on one CPU costs the others anything.
//!
//! It is a root task of its own, so that nothing else runs. Each row is one line in the log,
//! `bench: NAME min median p99 max count first`, in ticks of the machine's counter with the cost of
//! reading it subtracted; under `qemu -icount` and in Bochs a tick is an instruction. A figure is that of the whole way,
//! from the first instruction of the stub that puts arguments into registers to the last one that keeps a result.
//! Each repetition of a string instruction (x86) counts. Memory is clean when it is given, so no creation clears
//! any: its end has done that.
//!
//! | row | what it is |
//! | --- | --- |
//! | `syscall.null` | a system call that the kernel does not know |
//! | `syscall.foreign` | a system call of a foreign thread, which a handler in another domain answers |
//! | `ipc.same_domain.wordsN`, `ipc.other_domain.wordsN` | call and reply with `N` words each way, from memory into registers and from registers into memory. All 8 words travel in registers whatever `N` is: the stub clears the rest |
//! | `ipc.other_domain.utcb32`, `.utcb` | call and reply with 32 words each way, and with all words of a UTCB; they are there before, and stay there |
//! | `ipc.other_domain.capability` | a call with one capability, a notification; the reply has none |
//! | `ipc.chainN` | a call to the first of `N` servers in domains of their own, each of which calls the next one before it replies |
//! | `signal.no_waiter` | a signal to a notification that nobody waits for |
//! | `signal.waiter` | the same when a more important thread waits, which runs and waits again first |
//! | `wait.pending` | a wait for a notification that is signalled already |
//! | `yield.alone`, `yield.other` | a turn given up where nobody else has the same priority; one given to another thread, which gives it back |
//! | `interrupt.to_thread` | from an instruction of a less important thread, at most five before the timer's interrupt stops it, to the first one of the thread whose wait times out with it |
//! | `map.4k`, `map.2m` | one page of own memory is mapped into the space of another domain, which has its page tables already |
//! | `unmap.4k`, `unmap.2m` | that mapping is deleted: no CPU can use it after |
//! | `page_fault.pager` | a write to a page that is not mapped: a server in another domain, which runs like those of systems, maps it; then the write is repeated |
//! | `create.thread`, `.domain`, `.vm` | a thread with its UTCB; a domain with 64 slots and a quota; a guest space and a vCPU with its state page |
//! | `exit.hypercall` | a guest calls its monitor, which steps over the instruction; registers and instruction pointer are there |
//! | `exit.doorbell` | a guest writes to a doorbell, which its monitor does not see |
//! | `exit.cpuid`, `.port_read`, `.msr` (x86) | CPUID, with an instruction that says which leaf; a read of a port; RDMSR |
//! | `exit.id_register`, `.system_register` (Arm) | reads of an identification register, and of ACTLR_EL1 |
//! | `exit.mmio_read`, `.mmio_write` | an access to a device of the monitor: on x86 it translates the address of the instruction and decodes it, on Arm the syndrome says all |
//! | `exit.interrupt_controller` | a read of the x2APIC's version, or of a GIC distributor's register |
//! | `exit.halt_wake` | HLT or WFI, a less important thread that signals as soon as nothing else runs, and the guest's interrupt handler |
//! | `exit.page_fault` | a read of guest-physical memory that is not mapped, for which the monitor maps a page |
//! | `inject.signal_to_handler` | from a more important thread's signal to the handler of the guest, which it had stopped: with the thread's next wait |
//! | `inject.ipi` | from a vCPU's command to the handler of another, more important one |
//! | `guest.*` | what the guest's kernel does without an exit: a system call of its user program, a switch to a context with other tables, a page fault whose handler maps the page |
//! | `notification.cross_cpu` | a signal to a thread that waits on another CPU, which is idle, and one back, while this CPU is idle |
//! | `shared_memory.cross_cpu` | a number that another CPU waits for in a loop, and copies to where this one waits for it |
//! | `throughput.*` | see below |
//!
//! The rows `cross_cpu` are measured on two CPUs, where they go on side by side.
//!
//! The rows `exit`, `inject` and `guest` are measured by a guest (crate `bench-guest`), which reads the counter itself: the same
//! counter as threads. Its monitor ([`exit`]) is in a domain and a space of its own.
//!
//! The rows `throughput.OPERATION.cpusN` are instructions of one operation while each of the machine's `N` CPUs repeats it,
//! with a client and servers of its own: `ipc.same_domain` and `ipc.other_domain` are calls without words in the UTCB,
//! `ipc.utcb_words` calls with some, which take the general path, and `signal_wait` signals a notification and takes
//! the signal back. They are a little more than the same operation's on its own, by the registers that the loop around it
//! saves. Where they are the same for every `N`, throughput grows as the number of CPUs does.
//!
//! Two emulators see two things. In Bochs the CPUs go on side by side, a few instructions each in turn, inside the kernel
//! too: who waits for a lock there executes more instructions. QEMU's, when it counts instructions, go on in turns, which
//! here end in user mode and so never inside the kernel: a lock is always free, and what shows is a path that gets longer
//! with the number of CPUs, as by work for each of them. Neither has caches: what a cache line costs that several CPUs
//! write is not seen; that there is none, the tests see with a plugin of QEMU (`ci/plugin`). On a machine of several CPUs no
//! row of one CPU is measured, as all CPUs count.
#![cfg_attr(target_os = "none", no_std)]

/// Where each client of a pair writes to in its own space when its loop begins, and when it ends: for who watches the
/// machine from outside.
pub const LOOP_BEGINS: u64 = 0x5002_0000;
/// As [`LOOP_BEGINS`].
pub const LOOP_ENDS: u64 = LOOP_BEGINS + 8;

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
pub mod creation;
#[cfg(target_os = "none")]
pub mod cross;
#[cfg(target_os = "none")]
pub mod exit;
#[cfg(target_os = "none")]
pub mod foreign;
#[cfg(target_os = "none")]
pub mod ipc;
#[cfg(target_os = "none")]
pub mod memory;
#[cfg(target_os = "none")]
pub mod peer;
#[cfg(target_os = "none")]
pub mod place;
#[cfg(target_os = "none")]
pub mod server;
#[cfg(target_os = "none")]
pub mod signals;
#[cfg(target_os = "none")]
pub mod stats;
#[cfg(target_os = "none")]
pub mod throughput;
