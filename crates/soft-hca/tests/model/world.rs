//! Two devices, what is asked of them, and the model beside it.

use mlx5gda_sys::cqe::CqeOpcode;
use mlx5gda_sys::prm::QpState;
use mlx5gda_sys::wqe::{Post, Wqe};

use crate::action::{Action, Lane, Order, PAIRS, Span, Work};
use crate::lane::{BUFFER, DEPTH, Message, SOURCE, source};
use crate::side::Side;

pub(crate) const LANES: [Lane; 2 * PAIRS] = [
    Lane { side: 0, pair: 0 },
    Lane { side: 0, pair: 1 },
    Lane { side: 1, pair: 0 },
    Lane { side: 1, pair: 1 },
];

/// Both devices.
pub(crate) struct World {
    pub(crate) sides: [Side; 2],
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
            Action::Weather { side, faults } => self.sides[*side].weather(*faults),
            Action::Unplug { side } => self.sides[*side].plug(false),
            Action::Orders { fails, order } => {
                if matches!(order, Order::Reset { .. } | Order::Fail { .. }) {
                    self.settle();
                }
                for (side, fails) in self.sides.iter_mut().zip(fails) {
                    side.doom(*fails);
                }
                self.order(order);
            }
        }
    }

    fn order(&mut self, order: &Order) {
        match *order {
            Order::Reset { pair, psn } => self.reset(pair, psn),
            Order::Fail { lane, posts } => {
                self.fail(lane, posts);
                self.reset(lane.pair, 7);
            }
            Order::Illegal { lane } => self.illegal(lane),
            Order::Patience { lane, min_rnr_nak } => self.patience(lane, min_rnr_nak),
            Order::Moderate {
                side,
                period,
                count,
            } => self.sides[side].moderate(period, count),
            Order::Churn { side, count } => self.sides[side].churn(count),
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
        let word = |at| peer.remote(model.words_at(at));
        let result = |bytes| me.list(model.result_at(model.posted), bytes)[0];
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
            Work::FetchAdd { word: n, add } => Wqe::fetch_add(post, word(n * 8), result(8), add),
            Work::CompareSwap {
                word: n,
                right,
                swap,
            } => {
                let compare = model.word(n * 8, 8).wrapping_add(u64::from(!right));
                Wqe::compare_swap(post, word(n * 8), result(8), compare, swap)
            }
            Work::Masked(masked) => {
                let bytes = masked.bytes();
                let request = masked.request(model.word(masked.at, bytes));
                Wqe::atomic(post, word(masked.at), result(bytes), request)
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
        for side in &self.sides {
            side.plug(true);
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

    fn compare(&mut self, lane: Lane) {
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
        let found = me.client.load(model.result_at(0), model.results.len());
        same(found, &model.results, "what atomics found");
        let words = peer.client.load(model.words_at(0), model.words.len());
        same(words, &model.words, "words");
        self.sides[lane.side].expect_state(lane.pair, QpState::Rts);
    }
}
