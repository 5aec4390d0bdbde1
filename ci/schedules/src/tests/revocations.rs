//! What meets the end of the capability that it was begun with.

use super::migrations::while_it_moves;
use super::{ALL, Act, act, completes, in_all_schedules, machine, together};
use crate::cell::Ref;
use crate::context::State;
use crate::thread::Thread;
use crate::world::{self, Running};
use abi::{Op, Status};

/// Has `thread` take back what was delegated from the capability `n`.
fn revokes(thread: Ref<Thread>, n: u64) -> Act {
    act(move |w| {
        let result = completes(w, thread, Op::Revoke, &[n]);
        assert_eq!(result.map(|_| ()), Ok(()));
    })
}

#[test]
fn a_wait_meets_the_end_of_its_capability() {
    in_all_schedules(3, || {
        let (w, [waiter, other]) = machine();
        let (n, with) = (w.notification(), w.selector() as u64);
        w.root(Op::Delegate, &[n, 1, with, ALL, 1]);
        together(
            &w,
            vec![act(move |w| w.begin(waiter, Op::Wait, 0, &[with, u64::MAX])), revokes(other, n)],
        );
        assert_eq!(w.run(0), Running::User(waiter));
        let status = world::result(waiter).unwrap_err();
        assert!(matches!(status, Status::Aborted | Status::BadCapability));
    });
}

#[test]
fn a_wait_that_migrates_meets_the_end_of_its_capability() {
    in_all_schedules(1, || {
        let (w, [_, mover, other]) = machine::<3>();
        let (n, with) = (w.notification(), w.selector() as u64);
        w.root(Op::Delegate, &[n, 1, with, ALL, 1]);
        let waiter = w.client(0, 9);
        assert_eq!(w.run(0), Running::User(waiter.object));
        w.does(waiter, Op::Wait, &[with, u64::MAX]);
        while_it_moves(&w, mover, waiter.at, revokes(other, n));
        assert_eq!(waiter.object.context.cpu(), 1);
        assert_eq!(w.result(waiter), Err(Status::Aborted));
        assert_eq!(world::state(waiter), State::Ready);
    });
}
