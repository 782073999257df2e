//! Queue pairs are connected, changed, reset and broken, and in the end everything is freed.

use mlx5gda_sys::cqe::{CqeOpcode, Syndrome};
use mlx5gda_sys::prm::{CmdStatus, Init2RtrQpIn, Mtu, QpState, Rts2RtsQpIn, opt_param};
use mlx5gda_sys::wqe::Wqe;
use soft_hca::Live;

use crate::action::Lane;
use crate::world::World;

/// 0.64 ms: buffers that are missing come soon.
const MIN_RNR_NAK: u32 = 12;

impl World {
    pub(crate) fn connect(&mut self, pair: usize, psn: u32) {
        for side in 0..2 {
            let peer = &self.sides[1 - side];
            let end = peer.client.end(&peer.qps[pair], psn, Mtu::Bytes1024);
            let me = &mut self.sides[side];
            me.bring(pair, QpState::Init, |me, qp| me.client.rst2init(qp));
            let mut input = Init2RtrQpIn::new();
            me.client.fill_rtr(&mut input, &me.qps[pair], &end);
            input.qpc.set_min_rnr_nak(MIN_RNR_NAK).unwrap();
            me.bring(pair, QpState::Rtr, |me, qp| {
                me.client.modify(qp.object, input)
            });
            me.statuses[pair].min_rnr_nak = MIN_RNR_NAK;
        }
        for me in &mut self.sides {
            me.bring(pair, QpState::Rts, |me, qp| me.client.rtr2rts(qp, psn, 7));
        }
    }

    pub(crate) fn reset(&mut self, pair: usize, psn: u32) {
        for me in &mut self.sides {
            me.bring(pair, QpState::Rst, |me, qp| me.client.try_reset(qp));
            me.client.start_over(&mut me.qps[pair]);
            me.models[pair].restart();
            me.expect_state(pair, QpState::Rst);
        }
        self.connect(pair, psn);
    }

    /// `posts` work requests of a broken queue pair.
    pub(crate) fn fail(&mut self, Lane { side, pair }: Lane, posts: usize) {
        let me = &mut self.sides[side];
        me.bring(pair, QpState::Err, |me, qp| me.client.try_error(qp));
        for _ in 0..posts {
            let post = me.client.signalled(&me.qps[pair]);
            let wqe = Wqe::nop(post).unwrap();
            me.client.post(&mut me.qps[pair], &wqe);
            let cqe = me.next();
            assert_eq!(cqe.opcode(), Ok(CqeOpcode::ReqErr));
            let found = (cqe.qpn(), cqe.wqe_counter(), cqe.syndrome());
            let number = me.qps[pair].number;
            assert_eq!(found, (number, post.index, Syndrome::WrFlush));
        }
        me.expect_state(pair, QpState::Err);
    }

    pub(crate) fn illegal(&mut self, Lane { side, pair }: Lane) {
        let me = &mut self.sides[side];
        let refused = Err(CmdStatus::BadQpState);
        let again = me.command(|me| me.client.rst2init(&me.qps[pair]));
        assert_eq!(again, refused);
        let again = me.command(|me| me.client.rtr2rts(&me.qps[pair], 3, 7));
        assert_eq!(again, refused);
        // A completion queue that is used stays.
        assert!(me.destroy(me.cq.object).is_err());
        me.expect_state(pair, QpState::Rts);
    }

    pub(crate) fn patience(&mut self, Lane { side, pair }: Lane, min_rnr_nak: u32) {
        let me = &mut self.sides[side];
        let mut input = Rts2RtsQpIn::new();
        input.set_qpn(me.qps[pair].number).unwrap();
        input.set_opt_param_mask(opt_param::RNR_TIMEOUT);
        input.qpc.set_min_rnr_nak(min_rnr_nak).unwrap();
        me.bring(pair, QpState::Rts, |me, qp| {
            me.client.modify(qp.object, input)
        });
        me.statuses[pair].min_rnr_nak = min_rnr_nak;
        me.expect_state(pair, QpState::Rts);
    }

    /// Everything is freed.
    pub(crate) fn end(mut self) {
        self.settle();
        for side in &mut self.sides {
            while let Some(qp) = side.qps.last() {
                side.destroy(qp.object).unwrap();
                side.qps.pop();
            }
            side.destroy(side.cq.object).unwrap();
            assert_eq!(side.stats().live, side.before);
            side.link_is_up();
            let name = side.client.name.clone();
            side.client.close();
            assert_eq!(soft_hca::stats(&name).unwrap().live, Live::default());
        }
    }
}
