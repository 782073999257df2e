//! Two devices, what is asked of them, and the model beside it.

use mlx5gda_sys::cqe::{CqeOpcode, Syndrome};
use mlx5gda_sys::prm::{CmdStatus, Init2RtrQpIn, Mtu, QpState};
use mlx5gda_sys::wqe::{Post, Wqe};
use soft_hca::Live;

use crate::action::{Action, Lane, PAIRS, Span, Work};
use crate::client::Qp;
use crate::lane::{BUFFER, DEPTH, Message, SOURCE, source};
use crate::side::Side;

const LANES: [Lane; 2 * PAIRS] = [
    Lane { side: 0, pair: 0 },
    Lane { side: 0, pair: 1 },
    Lane { side: 1, pair: 0 },
    Lane { side: 1, pair: 1 },
];

/// Both devices.
pub(crate) struct World {
    sides: [Side; 2],
}

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self {
            sides: [Side::new(), Side::new()],
        };
        for pair in 0..PAIRS {
            world.connect(pair, 0x00ff_fff0);
        }
        world
    }

    /// Does it, and keeps the model up.
    pub(crate) fn act(&mut self, action: &Action) {
        match action {
            Action::Post {
                lane,
                work,
                signalled,
                ready,
            } => {
                if self.sides[lane.side].models[lane.pair].posted + 2 > DEPTH {
                    self.settle();
                }
                self.post(*lane, work, *signalled);
                if *ready {
                    self.provide(*lane);
                }
            }
            Action::Settle => self.settle(),
            Action::Weather { side, faults } => {
                let name = &self.sides[*side].client.name;
                soft_hca::set_faults(name, *faults).unwrap();
            }
            Action::Reset { pair, psn } => {
                self.settle();
                self.reset(*pair, *psn);
            }
            Action::Fail { lane, posts } => {
                self.settle();
                self.fail(*lane, *posts);
                self.reset(lane.pair, 7);
            }
            Action::Illegal { lane } => self.illegal(*lane),
            Action::Churn { side, count } => self.churn(*side, *count),
        }
    }

    fn post(&mut self, lane: Lane, work: &Work, signalled: bool) {
        let Lane { side, pair } = lane;
        let [ours, theirs] = &mut self.sides;
        let (me, peer) = if side == 0 {
            (ours, theirs)
        } else {
            (theirs, ours)
        };
        let model = &me.models[pair];
        let changes = !matches!(work, Work::Nop | Work::Read { .. } | Work::Send { .. });
        let post = Post {
            signalled,
            // A READ's source may be read until it has completed.
            fence: changes && model.reading,
            ..me.client.signalled(&me.qps[pair])
        };
        let from = SOURCE + model.source_at();
        let target = |at| peer.remote(model.target_at() + at);
        let word = |word| peer.remote(model.word_at(word));
        let result = || me.list(model.result_at(model.posted), 8)[0];
        let wqe = match *work {
            Work::Nop => Wqe::nop(post),
            Work::Write { to, immediate } => {
                Wqe::rdma_write(post, target(to.at), &me.list(from, to.len), immediate)
            }
            Work::WriteInline { at } => {
                let data = me.client.load(from, 16);
                Wqe::rdma_write_inline(post, target(at), &data, None)
            }
            Work::Read {
                from: Span { at, len },
            } => Wqe::rdma_read(post, target(at), &me.list(model.landing_at() + at, len)),
            Work::Send { len, immediate } => Wqe::send(post, &me.list(from, len), immediate),
            Work::FetchAdd { word: n, add } => Wqe::fetch_add(post, word(n), result(), add),
            Work::CompareSwap {
                word: n,
                right,
                swap,
            } => {
                let compare = model.words[n].wrapping_add(u64::from(!right));
                Wqe::compare_swap(post, word(n), result(), compare, swap)
            }
        }
        .unwrap();
        if signalled {
            me.models[pair].completions.push_back(post.index);
        }
        me.models[pair].apply(work);
        me.client.post(&mut me.qps[pair], &wqe);
    }

    /// Posts the receive buffers that a lane's messages need.
    fn provide(&mut self, lane: Lane) {
        let model = &mut self.sides[lane.side].models[lane.pair];
        let first = model.buffers;
        let count = model.sent.wrapping_sub(first);
        model.buffers = model.sent;
        for number in (0..count).map(|i| first.wrapping_add(i)) {
            let at = self.sides[lane.side].models[lane.pair].buffer_at(number);
            let peer = &self.sides[1 - lane.side];
            let list = peer.list(at, BUFFER);
            peer.client
                .post_receive(&peer.qps[lane.pair], number, &list);
        }
    }

    /// Waits until everything posted has been done, and compares.
    pub(crate) fn settle(&mut self) {
        for lane in LANES {
            // The last one is signalled, and completes after all others.
            self.post(lane, &Work::Nop, true);
            self.provide(lane);
        }
        for side in 0..2 {
            let requests = self.sides[side].models.iter().map(|m| m.completions.len());
            let messages = self.sides[1 - side].models.iter().map(|m| m.messages.len());
            for _ in 0..requests.chain(messages).sum() {
                self.complete(side);
            }
        }
        for lane in LANES {
            self.compare(lane);
            self.sides[lane.side].models[lane.pair].settled();
        }
        for side in &self.sides {
            side.reported_nothing_else();
        }
    }

    /// Takes a completion: the next one that its queue is to report.
    fn complete(&mut self, side: usize) {
        let cqe = self.sides[side].next();
        let pair = self.sides[side]
            .qps
            .iter()
            .position(|qp| qp.number == cqe.qpn());
        let pair = pair.unwrap_or_else(|| panic!("nobody's completion: {cqe:?}"));
        if cqe.opcode() == Ok(CqeOpcode::Req) {
            let expected = self.sides[side].models[pair].completions.pop_front();
            assert_eq!(expected, Some(cqe.wqe_counter()), "{cqe:?}");
            return;
        }
        let model = &mut self.sides[1 - side].models[pair];
        let message = model.messages.pop_front();
        let message = message.unwrap_or_else(|| panic!("nothing was sent: {cqe:?}"));
        let Message {
            len,
            immediate,
            is_write,
            from,
            buffer,
        } = message;
        let opcode = match (is_write, immediate) {
            (true, _) => CqeOpcode::RespWriteImm,
            (false, Some(_)) => CqeOpcode::RespSendImm,
            (false, None) => CqeOpcode::RespSend,
        };
        assert_eq!(cqe.opcode(), Ok(opcode), "{cqe:?}");
        assert_eq!((cqe.wqe_counter(), cqe.byte_cnt()), (buffer, len as u32));
        assert_eq!(cqe.imm(), immediate.unwrap_or(0));
        if !is_write {
            let at = model.buffer_at(buffer);
            let data: Vec<u8> = (from..from + len).map(source).collect();
            assert!(self.sides[side].client.load(at, len) == data, "{cqe:?}");
        }
    }

    fn compare(&self, lane: Lane) {
        let (me, peer) = (&self.sides[lane.side], &self.sides[1 - lane.side]);
        let model = &me.models[lane.pair];
        let same = |found: Vec<u8>, expected: &[u8], what: &str| {
            let wrong = found.iter().zip(expected).position(|(a, b)| a != b);
            assert_eq!(wrong, None, "{what} of {lane:?}");
        };
        let target = peer.client.load(model.target_at(), model.target.len());
        same(target, &model.target, "what was written");
        let landing = me.client.load(model.landing_at(), model.landing.len());
        same(landing, &model.landing, "what was read");
        let results: Vec<u8> = model.results.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let found = me.client.load(model.result_at(0), results.len());
        same(found, &results, "what atomics found");
        let words: Vec<u8> = model.words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        same(
            peer.client.load(model.word_at(0), words.len()),
            &words,
            "words",
        );
        self.expect_state(lane, QpState::Rts);
    }

    fn expect_state(&self, lane: Lane, state: QpState) {
        let side = &self.sides[lane.side];
        let found = side.client.context_of(&side.qps[lane.pair]).state();
        assert_eq!(found, state.code(), "{lane:?} is to be in {state:?}");
    }

    fn connect(&mut self, pair: usize, psn: u32) {
        for side in 0..2 {
            let (me, peer) = (&self.sides[side], &self.sides[1 - side]);
            let end = peer.client.end(&peer.qps[pair], psn, Mtu::Bytes1024);
            let qp = &me.qps[pair];
            me.client.rst2init(qp).unwrap();
            let mut input = Init2RtrQpIn::new();
            me.client.fill_rtr(&mut input, qp, &end);
            // 0.64 ms: buffers that are missing come soon.
            input.qpc.set_min_rnr_nak(12).unwrap();
            me.client.modify(qp.object, input).unwrap();
        }
        for side in &self.sides {
            side.client.rtr2rts(&side.qps[pair], psn, 7).unwrap();
        }
    }

    fn reset(&mut self, pair: usize, psn: u32) {
        for side in 0..2 {
            let me = &mut self.sides[side];
            me.client.reset(&mut me.qps[pair]);
            me.models[pair].restart();
            self.expect_state(Lane { side, pair }, QpState::Rst);
        }
        self.connect(pair, psn);
    }

    fn fail(&mut self, lane: Lane, posts: usize) {
        let me = &mut self.sides[lane.side];
        me.client.error(&me.qps[lane.pair]);
        for _ in 0..posts {
            let post = me.client.signalled(&me.qps[lane.pair]);
            let wqe = Wqe::nop(post).unwrap();
            me.client.post(&mut me.qps[lane.pair], &wqe);
            let cqe = me.next();
            assert_eq!(cqe.opcode(), Ok(CqeOpcode::ReqErr));
            let found = (cqe.qpn(), cqe.wqe_counter(), cqe.syndrome());
            let number = me.qps[lane.pair].number;
            assert_eq!(found, (number, post.index, Syndrome::WrFlush));
        }
        self.expect_state(lane, QpState::Err);
    }

    fn illegal(&self, lane: Lane) {
        let Side { client, qps, .. } = &self.sides[lane.side];
        let qp = &qps[lane.pair];
        assert_eq!(client.rst2init(qp), Err(CmdStatus::BadQpState));
        assert_eq!(client.rtr2rts(qp, 3, 7), Err(CmdStatus::BadQpState));
        // A completion queue that is used stays.
        assert_ne!(client.destroy(self.sides[lane.side].cq.object), 0);
        self.expect_state(lane, QpState::Rts);
    }

    fn churn(&mut self, side: usize, count: usize) {
        let client = &mut self.sides[side].client;
        let name = client.name.clone();
        let before = soft_hca::stats(&name).unwrap().live;
        let mark = client.used;
        let cq = client.cq(3, false);
        let made: Vec<Qp> = (0..count)
            .map(|_| client.qp_with_receives(&cq, 2))
            .collect();
        let now = soft_hca::stats(&name).unwrap().live;
        assert_eq!((now.qps, now.cqs), (before.qps + count, before.cqs + 1));
        client.rst2init(&made[0]).unwrap();
        for qp in made {
            assert_eq!(client.destroy(qp.object), 0);
        }
        assert_eq!(client.destroy(cq.object), 0);
        client.used = mark;
        assert_eq!(soft_hca::stats(&name).unwrap().live, before);
    }

    /// Everything is freed.
    pub(crate) fn end(mut self) {
        self.settle();
        for side in &mut self.sides {
            for qp in &side.qps {
                assert_eq!(side.client.destroy(qp.object), 0);
            }
            assert_eq!(side.client.destroy(side.cq.object), 0);
            let name = side.client.name.clone();
            assert_eq!(soft_hca::stats(&name).unwrap().live, side.before);
            side.client.close();
            assert_eq!(soft_hca::stats(&name).unwrap().live, Live::default());
        }
    }
}
