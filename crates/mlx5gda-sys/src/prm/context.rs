//! Contexts: what the device keeps of an address path, a queue pair, a completion queue, a key.

use super::bits::layout;

layout! {
    /// Address path (`ads`).
    Ads = "ads", 44 {
        members { bytes: [u8; 44], }
        parts {}
        fields {
            /// Force loopback.
            fl, set_fl: bool @ 0x0;
            /// Adaptive routing.
            free_ar, set_free_ar: bool @ 0x1;
            pkey_index, set_pkey_index: u16 @ 0x10;
            /// Packets carry a global route header (InfiniBand; RoCE always has one).
            grh, set_grh: bool @ 0x28;
            /// Low bits of the source LID.
            mlid, set_mlid: bits(7) @ 0x29;
            /// Remote LID (InfiniBand).
            rlid, set_rlid: u16 @ 0x30;
            /// Time to wait for an acknowledgement: 4.096 us * 2^value, 0 for ever.
            ack_timeout, set_ack_timeout: bits(5) @ 0x40;
            /// Index of the source GID.
            src_addr_index, set_src_addr_index: u8 @ 0x48;
            stat_rate, set_stat_rate: bits(4) @ 0x54;
            hop_limit, set_hop_limit: u8 @ 0x58;
            tclass, set_tclass: u8 @ 0x64;
            flow_label, set_flow_label: bits(20) @ 0x6c;
            /// Remote GID (RoCE v2: IP address, IPv4 mapped).
            rgid_rip, set_rgid_rip: bytes(16) @ 0x80;
            /// Force `dscp`.
            f_dscp, set_f_dscp: bool @ 0x104;
            /// Force `ecn`.
            f_ecn, set_f_ecn: bool @ 0x105;
            /// Force `eth_prio`.
            f_eth_prio, set_f_eth_prio: bool @ 0x107;
            ecn, set_ecn: bits(2) @ 0x108;
            dscp, set_dscp: bits(6) @ 0x10a;
            /// UDP source port (RoCE v2).
            udp_sport, set_udp_sport: u16 @ 0x110;
            dei_cfi, set_dei_cfi: bool @ 0x120;
            eth_prio, set_eth_prio: bits(3) @ 0x121;
            /// Service level (InfiniBand).
            sl, set_sl: bits(4) @ 0x124;
            /// Port number, from 1.
            vhca_port_num, set_vhca_port_num: u8 @ 0x128;
            /// Remote MAC address (`rmac_47_32` and `rmac_31_0`).
            rmac, set_rmac: bytes(6) @ 0x130;
        }
    }
}

layout! {
    /// Queue pair context (`qpc`).
    Qpc = "qpc", 232 {
        members {
            head: [u8; 24],
            /// Path to the peer.
            pub primary_address_path: Ads,
            /// Alternate path.
            pub secondary_address_path: Ads,
            tail: [u8; 120],
        }
        parts {
            primary_address_path: Ads @ 0xc0;
            secondary_address_path: Ads @ 0x220;
        }
        fields {
            /// See [`super::QpState`]; read only.
            state, set_state: bits(4) @ 0x0;
            lag_tx_port_affinity, set_lag_tx_port_affinity: bits(4) @ 0x4;
            /// See [`super::ServiceType`].
            st, set_st: u8 @ 0x8;
            isolate_vl_tc, set_isolate_vl_tc: bool @ 0x12;
            /// See [`super::PmState`].
            pm_state, set_pm_state: bits(2) @ 0x13;
            req_e2e_credit_mode, set_req_e2e_credit_mode: bits(2) @ 0x16;
            offload_type, set_offload_type: bits(4) @ 0x18;
            end_padding_mode, set_end_padding_mode: bits(2) @ 0x1c;
            wq_signature, set_wq_signature: bool @ 0x20;
            block_lb_mc, set_block_lb_mc: bool @ 0x21;
            atomic_like_write_en, set_atomic_like_write_en: bool @ 0x22;
            latency_sensitive, set_latency_sensitive: bool @ 0x23;
            drain_sigerr, set_drain_sigerr: bool @ 0x25;
            /// Protection domain.
            pd, set_pd: bits(24) @ 0x28;
            /// See [`super::Mtu`].
            mtu, set_mtu: bits(3) @ 0x40;
            /// Longest message: 2^value bytes.
            log_msg_max, set_log_msg_max: bits(5) @ 0x43;
            /// Receive WQEs: 2^value.
            log_rq_size, set_log_rq_size: bits(4) @ 0x49;
            /// Size of a receive WQE: 16 * 2^value bytes.
            log_rq_stride, set_log_rq_stride: bits(3) @ 0x4d;
            no_sq, set_no_sq: bool @ 0x50;
            /// Send queue: 2^value blocks of 64 bytes.
            log_sq_size, set_log_sq_size: bits(4) @ 0x51;
            ts_format, set_ts_format: bits(2) @ 0x58;
            /// The reserved local key may be used.
            rlky, set_rlky: bool @ 0x5b;
            ulp_stateless_offload_mode, set_ulp_stateless_offload_mode: bits(4) @ 0x5c;
            counter_set_id, set_counter_set_id: u8 @ 0x60;
            /// UAR page of the doorbell.
            uar_page, set_uar_page: bits(24) @ 0x68;
            /// Software's own index, given back in completions.
            user_index, set_user_index: bits(24) @ 0x88;
            /// Page size of the queue buffer: 4096 * 2^value bytes.
            log_page_size, set_log_page_size: bits(5) @ 0xa3;
            remote_qpn, set_remote_qpn: bits(24) @ 0xa8;
            /// Ask for an acknowledgement every 2^value packets.
            log_ack_req_freq, set_log_ack_req_freq: bits(4) @ 0x380;
            /// Outstanding reads and atomics as requester: 2^value.
            log_sra_max, set_log_sra_max: bits(3) @ 0x388;
            /// Transport retries.
            retry_count, set_retry_count: bits(3) @ 0x38d;
            /// Receiver-not-ready retries, 7 for ever.
            rnr_retry, set_rnr_retry: bits(3) @ 0x390;
            /// Fast registration.
            fre, set_fre: bool @ 0x394;
            cur_rnr_retry, set_cur_rnr_retry: bits(3) @ 0x395;
            cur_retry_count, set_cur_retry_count: bits(3) @ 0x398;
            next_send_psn, set_next_send_psn: bits(24) @ 0x3c8;
            /// Streams of a DCI: 2^value.
            log_num_dci_stream_channels, set_log_num_dci_stream_channels: bits(5) @ 0x3e3;
            /// Completion queue of the send queue.
            cqn_snd, set_cqn_snd: bits(24) @ 0x3e8;
            /// Streams of a DCI that may be in error: 2^value.
            log_num_dci_errored_streams, set_log_num_dci_errored_streams: bits(5) @ 0x403;
            deth_sqpn, set_deth_sqpn: bits(24) @ 0x408;
            last_acked_psn, set_last_acked_psn: bits(24) @ 0x448;
            ssn, set_ssn: bits(24) @ 0x468;
            /// Outstanding reads and atomics as responder: 2^value.
            log_rra_max, set_log_rra_max: bits(3) @ 0x488;
            /// See [`super::AtomicMode`].
            atomic_mode, set_atomic_mode: bits(4) @ 0x48c;
            /// Remote reads are allowed.
            rre, set_rre: bool @ 0x490;
            /// Remote writes are allowed.
            rwe, set_rwe: bool @ 0x491;
            /// Remote atomics are allowed.
            rae, set_rae: bool @ 0x492;
            /// Offset of the queue buffer in its first page, in 64-byte units.
            page_offset, set_page_offset: bits(6) @ 0x494;
            cd_slave_receive, set_cd_slave_receive: bool @ 0x49d;
            cd_slave_send, set_cd_slave_send: bool @ 0x49e;
            cd_master, set_cd_master: bool @ 0x49f;
            /// Delay asked of a sender when not ready, in the encoding of the InfiniBand
            /// specification.
            min_rnr_nak, set_min_rnr_nak: bits(5) @ 0x4a3;
            next_rcv_psn, set_next_rcv_psn: bits(24) @ 0x4a8;
            xrcd, set_xrcd: bits(24) @ 0x4c8;
            /// Completion queue of the receive queue.
            cqn_rcv, set_cqn_rcv: bits(24) @ 0x4e8;
            /// Doorbell record: address, or offset into its umem.
            dbr_addr, set_dbr_addr: u64 @ 0x500;
            q_key, set_q_key: u32 @ 0x540;
            /// See [`super::RqType`].
            rq_type, set_rq_type: bits(3) @ 0x565;
            srqn_rmpn_xrqn, set_srqn_rmpn_xrqn: bits(24) @ 0x568;
            rmsn, set_rmsn: bits(24) @ 0x588;
            /// Send blocks that the device has executed.
            hw_sq_wqebb_counter, set_hw_sq_wqebb_counter: u16 @ 0x5a0;
            /// Send blocks that software has posted.
            sw_sq_wqebb_counter, set_sw_sq_wqebb_counter: u16 @ 0x5b0;
            hw_rq_counter, set_hw_rq_counter: u32 @ 0x5c0;
            sw_rq_counter, set_sw_rq_counter: u32 @ 0x5e0;
            cgs, set_cgs: bool @ 0x62f;
            /// Completions of the requester may carry data inline.
            cs_req, set_cs_req: u8 @ 0x630;
            /// Completions of the responder may carry data inline.
            cs_res, set_cs_res: u8 @ 0x638;
            dc_access_key, set_dc_access_key: u64 @ 0x640;
            /// The doorbell record is in `dbr_umem_id`.
            dbr_umem_valid, set_dbr_umem_valid: bool @ 0x683;
            /// Not in the kernel's header; from DPDK's and NVSHMEM's descriptions.
            dbr_umem_id, set_dbr_umem_id: u32 @ 0x720;
        }
    }
}

layout! {
    /// Completion queue context (`cqc`).
    Cqc = "cqc", 64 {
        members { bytes: [u8; 64], }
        parts {}
        fields {
            /// 0 is well, 9 overflow, 10 write failure.
            status, set_status: bits(4) @ 0x0;
            /// Completions wake a thread of the host, that of `process_id`. This and the other
            /// fields that are said to be firmware's are not in the kernel's header, but in what
            /// firmware prints of its queues, and some in DPDK's header.
            as_notify, set_as_notify: bool @ 0x4;
            /// Completions name the initiator's DC target. Firmware's.
            initiator_src_dct, set_initiator_src_dct: bool @ 0x5;
            /// The doorbell record is in `dbr_umem_id`.
            dbr_umem_valid, set_dbr_umem_valid: bool @ 0x6;
            /// Events go to an element of the device's processors, not to an event queue.
            apu_cq, set_apu_cq: bool @ 0x7;
            /// 0 is 64 bytes, 1 is 128 bytes.
            cqe_sz, set_cqe_sz: bits(3) @ 0x8;
            /// Collapsed: all completions go to entry 0.
            cc, set_cc: bool @ 0xb;
            scqe_break_moderation_en, set_scqe_break_moderation_en: bool @ 0xd;
            /// Overrun is ignored: the consumer counter is not looked at.
            oi, set_oi: bool @ 0xe;
            cq_period_mode, set_cq_period_mode: bits(2) @ 0xf;
            cqe_comp_en, set_cqe_comp_en: bool @ 0x11;
            mini_cqe_res_format, set_mini_cqe_res_format: bits(2) @ 0x12;
            /// Arming: 6 solicited only, 9 armed, 10 fired.
            st, set_st: bits(4) @ 0x14;
            /// Each completion is an event, armed or not. Firmware's.
            always_armed_cq, set_always_armed_cq: bool @ 0x18;
            /// Kind of element if `apu_cq`: 0 is a thread. Firmware's.
            apu_element_type, set_apu_element_type: bits(3) @ 0x19;
            cqe_compression_layout, set_cqe_compression_layout: bits(2) @ 0x1e;
            /// Not in the kernel's header; from DPDK's and NVSHMEM's descriptions.
            dbr_umem_id, set_dbr_umem_id: u32 @ 0x20;
            /// Offset of the ring in its first page, in 64-byte units.
            page_offset, set_page_offset: bits(6) @ 0x54;
            /// The upper bits of `mini_cqe_res_format`. Firmware's.
            mini_cqe_res_format_ext, set_mini_cqe_res_format_ext: bits(2) @ 0x5c;
            /// Clock of the completions' time stamps: 0 is the device's own. Firmware's.
            cq_timestamp_format, set_cq_timestamp_format: bits(2) @ 0x5e;
            /// Entries: 2^value.
            log_cq_size, set_log_cq_size: bits(5) @ 0x63;
            uar_page, set_uar_page: bits(24) @ 0x68;
            cq_period, set_cq_period: bits(12) @ 0x84;
            cq_max_count, set_cq_max_count: u16 @ 0x90;
            /// Event queue (`c_eqn_or_apu_element`).
            c_eqn, set_c_eqn: u32 @ 0xa0;
            /// Page size of the ring: 4096 * 2^value bytes.
            log_page_size, set_log_page_size: bits(5) @ 0xc3;
            last_notified_index, set_last_notified_index: bits(24) @ 0x108;
            last_solicit_index, set_last_solicit_index: bits(24) @ 0x128;
            consumer_counter, set_consumer_counter: bits(24) @ 0x148;
            producer_counter, set_producer_counter: bits(24) @ 0x168;
            /// With `as_notify`. Firmware's, as is `process_id`.
            local_partition_id, set_local_partition_id: bits(12) @ 0x180;
            process_id, set_process_id: bits(20) @ 0x18c;
            /// Doorbell record: address, or offset into its umem.
            dbr_addr, set_dbr_addr: u64 @ 0x1c0;
        }
    }
}

layout! {
    /// Memory key context (`mkc`).
    Mkc = "mkc", 64 {
        members { bytes: [u8; 64], }
        parts {}
        fields {
            free, set_free: bool @ 0x1;
            access_mode_4_2, set_access_mode_4_2: bits(3) @ 0x3;
            relaxed_ordering_write, set_relaxed_ordering_write: bool @ 0xd;
            small_fence_on_rdma_read_response, set_small_fence_on_rdma_read_response: bool @ 0xf;
            umr_en, set_umr_en: bool @ 0x10;
            /// Remote atomics are allowed.
            a, set_a: bool @ 0x11;
            /// Remote writes are allowed.
            rw, set_rw: bool @ 0x12;
            /// Remote reads are allowed.
            rr, set_rr: bool @ 0x13;
            /// Local writes are allowed.
            lw, set_lw: bool @ 0x14;
            /// Local reads are allowed.
            lr, set_lr: bool @ 0x15;
            /// Translation: 0 physical, 1 pages (MTT), 2 KLM, 3 KSM.
            access_mode_1_0, set_access_mode_1_0: bits(2) @ 0x16;
            /// 1: addresses are translated in advance (ATS).
            ma_translation_mode, set_ma_translation_mode: bits(2) @ 0x1a;
            /// Queue pair that may use it, all ones for any.
            qpn, set_qpn: bits(24) @ 0x20;
            /// The part of the key that software chooses.
            mkey_7_0, set_mkey_7_0: u8 @ 0x38;
            /// All addresses; `start_addr` and `len` are ignored.
            length64, set_length64: bool @ 0x60;
            bsf_en, set_bsf_en: bool @ 0x61;
            sync_umr, set_sync_umr: bool @ 0x62;
            expected_sigerr_count, set_expected_sigerr_count: bool @ 0x65;
            en_rinval, set_en_rinval: bool @ 0x67;
            /// Protection domain.
            pd, set_pd: bits(24) @ 0x68;
            start_addr, set_start_addr: u64 @ 0x80;
            /// Length in bytes (`len`).
            length, set_length: u64 @ 0xc0;
            bsf_octword_size, set_bsf_octword_size: u32 @ 0x100;
            /// Size of the translation table, in 16-byte units.
            translations_octword_size, set_translations_octword_size: u32 @ 0x1a0;
            relaxed_ordering_read, set_relaxed_ordering_read: bool @ 0x1d9;
            log_page_size, set_log_page_size: bits(5) @ 0x1db;
        }
    }
}
