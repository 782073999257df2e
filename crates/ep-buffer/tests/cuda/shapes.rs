//! Which shapes are tried.

use crate::agree::agree;
use ep_buffer::cuda::{DispatchType, ScaleFormat};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Routing {
    Uniform,
    /// A third of the choices are -1.
    Sparse,
    /// All to the experts of rank 0.
    OneRank,
    /// Ranks bring different numbers of tokens, some none.
    Ragged,
    /// Every expert is named twice.
    Twice,
    Nowhere,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) ranks: u32,
    pub(crate) experts: u32,
    pub(crate) hidden: u32,
    pub(crate) tokens: u32,
    pub(crate) top_k: u32,
    pub(crate) routing: Routing,
    pub(crate) dispatch: DispatchType,
    /// Of which each rank has to itself; as many as there are by default.
    pub(crate) sms: Option<u32>,
    pub(crate) senders: Option<u32>,
}

/// A test by its name.
pub(crate) type Named = (String, Box<dyn FnOnce() + Send>);

fn trial(name: String, case: Case) -> Named {
    (name, Box::new(move || agree(&case)))
}

pub(crate) fn trials() -> Vec<Named> {
    [1, 2, 3, 4, 8].into_iter().flat_map(of_ranks).collect()
}

fn of_ranks(ranks: u32) -> Vec<Named> {
    let fp8 = DispatchType::Fp8(ScaleFormat::F32);
    let plain = Case {
        ranks,
        experts: 16,
        hidden: 1024,
        tokens: 9,
        top_k: 4,
        routing: Routing::Sparse,
        dispatch: DispatchType::Bf16,
        sms: None,
        senders: None,
    };
    let mut trials = Vec::new();
    for dispatch in [
        DispatchType::Bf16,
        fp8,
        DispatchType::Fp8(ScaleFormat::Ue8m0),
    ] {
        let shapes = [
            (288, 7168, 16, 8, Routing::Uniform),
            (32, 7168, 128, 8, Routing::Uniform),
            (288, 7168, 1, 8, Routing::Uniform),
            (67, 7168, 37, 8, Routing::Sparse),
            (64, 2048, 61, 6, Routing::OneRank),
            (32, 1024, 133, 8, Routing::Ragged),
            (64, 128, 19, 32, Routing::Uniform),
            (61, 4224, 19, 16, Routing::Sparse),
            (8, 5120, 5, 1, Routing::Uniform),
            (16, 256, 9, 4, Routing::Nowhere),
            (16, 2560, 40, 8, Routing::Twice),
            (16, 1024, 700, 8, Routing::Sparse),
            (16, 512, 200, 8, Routing::Twice),
            (16, 2048, 700, 8, Routing::Ragged),
            (40, 1024, 150, 6, Routing::Uniform),
            (33, 512, 260, 16, Routing::Sparse),
        ];
        for (experts, hidden, tokens, top_k, routing) in shapes {
            let name = format!(
                "{ranks}_ranks_{experts}_experts_{hidden}_hidden_{tokens}_tokens_top_{top_k}_{routing:?}_{dispatch:?}"
            );
            let case = Case {
                experts,
                hidden,
                tokens,
                top_k,
                routing,
                dispatch,
                ..plain
            };
            trials.push(trial(name, case));
        }
    }
    for hidden in [8, 1000] {
        let case = Case {
            experts: 12,
            hidden,
            tokens: 33,
            top_k: 3,
            routing: Routing::Uniform,
            ..plain
        };
        trials.push(trial(format!("{ranks}_ranks_{hidden}_hidden"), case));
    }
    // As few blocks as can be, by kernels of all sizes.
    for (tokens, dispatch) in [
        (9, DispatchType::Bf16),
        (100, fp8),
        (300, DispatchType::Bf16),
        (300, fp8),
    ] {
        let name = format!("{ranks}_ranks_few_blocks_{tokens}_tokens_{dispatch:?}");
        let case = Case {
            tokens,
            dispatch,
            sms: Some(ranks + 1),
            ..plain
        };
        trials.push(trial(name, case));
    }
    // More tokens of each sender than the blocks of the large kernel have memory for.
    for (tokens, dispatch) in [(12_000, DispatchType::Bf16), (8_400, fp8)] {
        let name = format!("{ranks}_ranks_few_senders_{tokens}_tokens_{dispatch:?}");
        let case = Case {
            hidden: 128,
            tokens,
            top_k: 8,
            routing: Routing::Uniform,
            dispatch,
            senders: Some(12),
            ..plain
        };
        trials.push(trial(name, case));
    }
    trials
}
