//! Commands, of which some are made to fail.

use std::fmt::Debug;
use std::io;

use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::{CmdStatus, ModifyCqIn, QpState, Qpc};
use rustix::io::Errno;

use crate::client::{DATA, Qp};
use crate::side::Side;

/// `MLX5_CQ_MODIFY_PERIOD` and `MLX5_CQ_MODIFY_COUNT`.
const MODERATION: u32 = 1 << 0 | 1 << 1;

impl Side {
    /// Runs a command that is answered in a mailbox.
    pub(crate) fn command<T>(
        &mut self,
        run: impl Fn(&Self) -> Result<T, CmdStatus>,
    ) -> Result<T, CmdStatus> {
        self.attempt(CmdStatus::InternalErr, run)
    }

    /// Makes a call that stands for a command and is answered with an error number.
    pub(crate) fn call<T>(&mut self, run: impl Fn(&Self) -> Result<T, i32>) -> Result<T, i32> {
        self.attempt(Errno::REMOTEIO.raw_os_error(), run)
    }

    /// If it is this command's turn to fail, it does so and leaves everything as it was; then it
    /// is tried again.
    fn attempt<T, E: Debug + PartialEq>(
        &mut self,
        error: E,
        run: impl Fn(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let is_its_turn = self.doomed == Some(0);
        self.doomed = self.doomed.and_then(|left| left.checked_sub(1));
        if is_its_turn {
            let before = self.stats();
            let failed = run(self);
            assert_eq!(failed.err(), Some(error), "the command is to fail");
            let after = self.stats();
            assert_eq!(after.refused, before.refused + 1);
            assert_eq!(after.live, before.live);
            self.is_as_commanded();
        }
        run(self)
    }

    /// Every object is as the commands that succeeded have made it.
    fn is_as_commanded(&mut self) {
        for pair in 0..self.qps.len() {
            let found = self.context(pair);
            let wanted = self.statuses[pair];
            assert_eq!(found.state(), wanted.state.code(), "state of pair {pair}");
            assert_eq!(found.min_rnr_nak(), wanted.min_rnr_nak);
        }
        let cqc = self.command(|side| side.client.try_cq_context(&side.cq));
        let cqc = cqc.unwrap();
        assert_eq!((cqc.cq_period(), cqc.cq_max_count()), self.moderation);
    }

    fn context(&mut self, pair: usize) -> Qpc {
        let found = self.command(|side| side.client.try_context_of(&side.qps[pair]));
        found.unwrap()
    }

    pub(crate) fn expect_state(&mut self, pair: usize, state: QpState) {
        assert_eq!(self.statuses[pair].state, state);
        let found = self.context(pair).state();
        assert_eq!(found, state.code(), "pair {pair} is to be in {state:?}");
    }

    /// A command on a queue pair that ends in `state`.
    pub(crate) fn bring(
        &mut self,
        pair: usize,
        state: QpState,
        run: impl Fn(&Self, &Qp) -> Result<(), CmdStatus>,
    ) {
        self.command(|side| run(side, &side.qps[pair])).unwrap();
        self.statuses[pair].state = state;
    }

    pub(crate) fn moderate(&mut self, period: u32, count: u16) {
        let mut input = ModifyCqIn::new();
        input.set_cqn(self.cq.number).unwrap();
        input.set_modify_field_select(MODERATION);
        input.cq_context.set_cq_period(period).unwrap();
        input.cq_context.set_cq_max_count(count);
        self.command(|side| side.client.modify(side.cq.object, input))
            .unwrap();
        self.moderation = (period, count);
        self.is_as_commanded();
    }

    /// Objects come and go.
    pub(crate) fn churn(&mut self, count: usize) {
        let before = self.stats().live;
        let mark = self.client.used;
        let (input, ring) = self.client.cq_command(3, false);
        let cq = self.command(|side| side.client.cq_by(input, ring)).unwrap();
        let made: Vec<Qp> = (0..count)
            .map(|_| {
                let (input, queue) = self.client.receives_command(&cq, 2);
                self.command(|side| side.client.qp_by(input, queue))
                    .unwrap()
            })
            .collect();
        let now = self.stats().live;
        assert_eq!((now.qps, now.cqs), (before.qps + count, before.cqs + 1));
        self.command(|side| side.client.rst2init(&made[0])).unwrap();
        self.regions(count);
        for qp in made {
            self.destroy(qp.object).unwrap();
        }
        self.destroy(cq.object).unwrap();
        self.client.used = mark;
        assert_eq!(self.stats().live, before);
    }

    /// Memory regions come and go, in a protection domain of their own.
    fn regions(&mut self, count: usize) {
        let before = self.stats().live;
        let pd = self.call(|side| {
            // SAFETY: the context is open.
            made(unsafe { (side.client.table.ibv_alloc_pd)(side.client.context) })
        });
        let pd = pd.unwrap();
        let regions: Vec<_> = (0..count)
            .map(|_| {
                let region = self.call(|side| {
                    let at = side.client.address() as *mut _;
                    let access = ffi::IBV_ACCESS_LOCAL_WRITE as i32;
                    // SAFETY: the data memory is alive as long as the client.
                    made(unsafe { (side.client.table.ibv_reg_mr)(pd, at, DATA, access) })
                });
                region.unwrap()
            })
            .collect();
        let now = self.stats().live;
        assert_eq!((now.pds, now.mrs), (before.pds + 1, before.mrs + count));
        for region in regions {
            // SAFETY: nobody uses the region.
            let gone = self.call(|side| done(unsafe { (side.client.table.ibv_dereg_mr)(region) }));
            gone.unwrap();
        }
        // SAFETY: nobody uses the domain.
        let gone = self.call(|side| done(unsafe { (side.client.table.ibv_dealloc_pd)(pd) }));
        gone.unwrap();
        assert_eq!(self.stats().live, before);
    }

    pub(crate) fn destroy(&mut self, object: *mut ffi::mlx5dv_devx_obj) -> Result<(), i32> {
        self.call(|side| done(side.client.destroy(object)))
    }
}

/// What a call returns that makes something, with `errno` if it does not.
fn made<T>(pointer: *mut T) -> Result<*mut T, i32> {
    let error = io::Error::last_os_error().raw_os_error();
    (!pointer.is_null())
        .then_some(pointer)
        .ok_or(error.unwrap_or(0))
}

fn done(error: i32) -> Result<(), i32> {
    if error == 0 { Ok(()) } else { Err(error) }
}
