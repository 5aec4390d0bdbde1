//! Atomics and locks at which the checker can switch to another CPU, and its order of doing so.

use crate::arch;
use crate::cell::Ref;
use crate::cpu::Cpu;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use spin::mutex::TicketMutexGuard;

/// Whether CPUs run at the same time now.
static EXPLORING: AtomicBool = AtomicBool::new(false);
/// The CPU that each of the checker's tasks is, or 0.
static CPUS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

/// From now on (not), the checker switches between CPUs.
pub fn explore(on: bool) {
    EXPLORING.store(on, Ordering::Relaxed);
}

/// The calling task is `cpu`.
pub fn become_cpu(cpu: Ref<Cpu>) {
    let task: usize = shuttle::current::me().into();
    CPUS[task].store(cpu.address(), Ordering::Relaxed);
    arch::set_current_cpu(cpu);
}

/// Another CPU may do something now.
fn point() {
    if EXPLORING.load(Ordering::Relaxed) {
        // The checker has no time: this is a switch and nothing else.
        shuttle::thread::sleep(std::time::Duration::ZERO);
    }
}

/// As [`core::sync::atomic`].
pub mod atomic {
    use super::point;
    pub use core::sync::atomic::Ordering;

    /// As [`core::sync::atomic`] has it.
    pub fn fence(_order: Ordering) {
        point();
    }

    macro_rules! atomics {
        ($($name:ident($value:ty);)*) => {$(
            /// As [`core::sync::atomic`] has it. What is loaded or stored in no order is under a lock, or
            /// belongs to one CPU: nobody is let in there.
            #[repr(transparent)]
            pub struct $name(core::sync::atomic::$name);

            #[allow(missing_docs)]
            impl $name {
                pub const fn new(value: $value) -> $name {
                    $name(core::sync::atomic::$name::new(value))
                }

                pub fn load(&self, order: Ordering) -> $value {
                    if order != Ordering::Relaxed {
                        point();
                    }
                    self.0.load(order)
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    if order != Ordering::Relaxed {
                        point();
                    }
                    self.0.store(value, order);
                }

                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.swap(value, order)
                }

                pub fn compare_exchange(
                    &self,
                    old: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    point();
                    self.0.compare_exchange(old, new, success, failure)
                }

                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.fetch_or(value, order)
                }

                pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.fetch_and(value, order)
                }
            }
        )*};
    }

    macro_rules! integers {
        ($($name:ident($value:ty);)*) => {$(
            #[allow(missing_docs)]
            impl $name {
                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.fetch_add(value, order)
                }

                pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.fetch_sub(value, order)
                }

                pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    point();
                    self.0.fetch_max(value, order)
                }

                pub fn fetch_update(
                    &self,
                    success: Ordering,
                    failure: Ordering,
                    change: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    point();
                    self.0.fetch_update(success, failure, change)
                }
            }
        )*};
    }

    atomics! {
        AtomicBool(bool);
        AtomicU8(u8);
        AtomicU16(u16);
        AtomicU32(u32);
        AtomicU64(u64);
    }

    integers! {
        AtomicU8(u8);
        AtomicU16(u16);
        AtomicU32(u32);
        AtomicU64(u64);
    }
}

/// As [`spin::mutex::TicketMutex`]: who finds it locked lets another CPU run.
pub struct TicketMutex<T>(spin::mutex::TicketMutex<T>);

impl<T> TicketMutex<T> {
    /// A lock for `value`.
    pub const fn new(value: T) -> TicketMutex<T> {
        TicketMutex(spin::mutex::TicketMutex::new(value))
    }

    /// Waits until it is free.
    pub fn lock(&self) -> TicketMutexGuard<'_, T> {
        loop {
            point();
            if let Some(guard) = self.0.try_lock() {
                return guard;
            }
            shuttle::thread::yield_now();
        }
    }

    /// Locks it, if it is free.
    pub fn try_lock(&self) -> Option<TicketMutexGuard<'_, T>> {
        point();
        self.0.try_lock()
    }
}

/// Where a schedule could have gone on with different tasks.
struct Fork {
    chosen: usize,
    tasks: usize,
}

/// All schedules in which at most `switches` times a CPU is stopped that could have gone on, each once.
pub struct Bounded {
    switches: usize,
    forks: Vec<Fork>,
    /// Forks passed in this schedule, and switches made.
    passed: usize,
    made: usize,
    begun: bool,
}

impl Bounded {
    /// Schedules with up to `switches` switches.
    pub fn new(switches: usize) -> Bounded {
        Bounded { switches, forks: Vec::new(), passed: 0, made: 0, begun: false }
    }
}

impl Scheduler for Bounded {
    fn new_execution(&mut self) -> Option<Schedule> {
        if self.begun {
            // The last fork with something left is taken differently.
            while self.forks.last().is_some_and(|f| f.chosen + 1 == f.tasks) {
                self.forks.pop();
            }
            self.forks.last_mut()?.chosen += 1;
        }
        (self.begun, self.passed, self.made) = (true, 0, 0);
        Some(Schedule::new(0))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let ids = runnable.iter().map(|task| task.id());
        let goes_on = ids.clone().find(|&id| Some(id) == current && !is_yielding);
        // Who waits for another one lets all the others have their turn.
        let after = |id: &TaskId| is_yielding && current.is_some_and(|c| *id > c);
        let next = ids.clone().find(after).or(ids.clone().find(|_| is_yielding));
        let mut tasks: Vec<TaskId> = goes_on.or(next).into_iter().collect();
        // The first task only waits for the others.
        let is_first = goes_on.is_some_and(|id| usize::from(id) == 0);
        if next.is_none() && (goes_on.is_none() || self.made < self.switches && !is_first) {
            tasks.extend(ids.filter(|&id| Some(id) != current));
        }
        let mut chosen = 0;
        if tasks.len() > 1 {
            if self.passed == self.forks.len() {
                self.forks.push(Fork { chosen: 0, tasks: tasks.len() });
            }
            chosen = self.forks[self.passed].chosen;
            self.passed += 1;
        }
        if goes_on.is_some() && chosen > 0 {
            self.made += 1;
        }
        let task = tasks[chosen];
        let cpu = CPUS[usize::from(task)].load(Ordering::Relaxed);
        if cpu != 0 {
            // SAFETY: `become_cpu` stored it, and CPU data lasts as long as its world.
            arch::set_current_cpu(unsafe { Ref::from_address(cpu) });
        }
        Some(task)
    }

    fn next_u64(&mut self) -> u64 {
        unreachable!("the kernel throws no dice")
    }
}
