/* Made by `cargo xtask header` from mlx5gda-sys; do not edit.
 * SPDX-License-Identifier: MIT OR Apache-2.0 */

#ifndef MLX5GDA_H
#define MLX5GDA_H

#include <stdint.h>

/**
 * Size of a WQE basic block, the stride of a send queue, in bytes.
 */
#define MLX5GDA_WQEBB_BYTES 64

/**
 * Size of the unit that the `ds` field of the control segment counts, in bytes.
 */
#define MLX5GDA_DS_BYTES 16

/**
 * Bits of `fm_ce_se`: write a completion on success too (`MLX5_WQE_CTRL_CQ_UPDATE`).
 */
#define MLX5GDA_CTRL_CQ_UPDATE 8

/**
 * Bit of `fm_ce_se`: raise a solicited event at the responder (`MLX5_WQE_CTRL_SOLICITED`).
 */
#define MLX5GDA_CTRL_SOLICITED 2

/**
 * Bits of `fm_ce_se`: wait for earlier reads and atomics (`MLX5_WQE_CTRL_FENCE`).
 */
#define MLX5GDA_CTRL_FENCE 128

/**
 * Bits of `fm_ce_se`: wait for earlier local operations
 * (`MLX5_WQE_CTRL_INITIATOR_SMALL_FENCE`).
 */
#define MLX5GDA_CTRL_SMALL_FENCE 32

/**
 * Bit 31 of a byte count: inline data follows (`MLX5_INLINE_SEG`).
 */
#define MLX5GDA_INLINE_SEG 2147483648

/**
 * Size of a CQE, in bytes.
 */
#define MLX5GDA_CQE_BYTES 64

/**
 * Bit 0 of `op_own`: the owner bit, which flips on each pass through the ring.
 */
#define MLX5GDA_CQE_OWNER_MASK 1

/**
 * Syndrome byte: the message does not fit what was posted locally.
 */
#define MLX5GDA_SYNDROME_LOCAL_LENGTH 1

/**
 * Syndrome byte: the WQE or the state of the queue pair is inconsistent.
 */
#define MLX5GDA_SYNDROME_LOCAL_QP_OPERATION 2

/**
 * Syndrome byte: a local key does not cover the local memory.
 */
#define MLX5GDA_SYNDROME_LOCAL_PROTECTION 4

/**
 * Syndrome byte: flushed: the queue pair was in the error state.
 */
#define MLX5GDA_SYNDROME_WR_FLUSH 5

/**
 * Syndrome byte: a memory window could not be bound.
 */
#define MLX5GDA_SYNDROME_MW_BIND 6

/**
 * Syndrome byte: the responder answered with an unexpected packet.
 */
#define MLX5GDA_SYNDROME_BAD_RESPONSE 16

/**
 * Syndrome byte: the responder's own memory refused access.
 */
#define MLX5GDA_SYNDROME_LOCAL_ACCESS 17

/**
 * Syndrome byte: the responder found the request malformed.
 */
#define MLX5GDA_SYNDROME_REMOTE_INVALID_REQUEST 18

/**
 * Syndrome byte: the remote key, range or permission does not allow the access.
 */
#define MLX5GDA_SYNDROME_REMOTE_ACCESS 19

/**
 * Syndrome byte: the responder could not carry the operation out.
 */
#define MLX5GDA_SYNDROME_REMOTE_OPERATION 20

/**
 * Syndrome byte: no acknowledgement within the retry limit.
 */
#define MLX5GDA_SYNDROME_TRANSPORT_RETRY_EXCEEDED 21

/**
 * Syndrome byte: the responder stayed not ready within the RNR retry limit.
 */
#define MLX5GDA_SYNDROME_RNR_RETRY_EXCEEDED 22

/**
 * Syndrome byte: the responder aborted the operation.
 */
#define MLX5GDA_SYNDROME_REMOTE_ABORTED 34

/**
 * Size of a UAR page, in bytes, as the devx UAR calls hand it out.
 */
#define MLX5GDA_UAR_PAGE_BYTES 4096

/**
 * Offset of the first BlueFlame register in a UAR page (`reg_addr` of `mlx5dv_devx_uar`).
 */
#define MLX5GDA_UAR_BLUEFLAME 2048

/**
 * Size of one BlueFlame buffer; a page has two of them, used alternately when whole WQEs are
 * written through them.
 */
#define MLX5GDA_UAR_BLUEFLAME_BYTES 256

/**
 * Offset of the CQ doorbell register in a UAR page (`MLX5_CQ_DOORBELL`).
 */
#define MLX5GDA_UAR_CQ_DOORBELL 32

/**
 * Operation of a send WQE (`MLX5_OPCODE_*`).
 */
enum mlx5gda_opcode
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Nothing; may be signalled.
   */
  MLX5GDA_OPCODE_NOP = 0,
  /**
   * RDMA write.
   */
  MLX5GDA_OPCODE_RDMA_WRITE = 8,
  /**
   * RDMA write that consumes a receive WQE and delivers 4 bytes with its completion.
   */
  MLX5GDA_OPCODE_RDMA_WRITE_IMM = 9,
  /**
   * Send.
   */
  MLX5GDA_OPCODE_SEND = 10,
  /**
   * Send with 4 bytes delivered in the completion.
   */
  MLX5GDA_OPCODE_SEND_IMM = 11,
  /**
   * RDMA read.
   */
  MLX5GDA_OPCODE_RDMA_READ = 16,
  /**
   * Compare and swap of 8 bytes.
   */
  MLX5GDA_OPCODE_ATOMIC_CS = 17,
  /**
   * Fetch and add of 8 bytes.
   */
  MLX5GDA_OPCODE_ATOMIC_FA = 18,
  /**
   * Masked compare and swap of 4 or 8 bytes.
   */
  MLX5GDA_OPCODE_ATOMIC_MASKED_CS = 20,
  /**
   * Masked fetch and add of 4 or 8 bytes.
   */
  MLX5GDA_OPCODE_ATOMIC_MASKED_FA = 21,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum mlx5gda_opcode mlx5gda_opcode;
#else
typedef uint8_t mlx5gda_opcode;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What kind of completion a CQE reports: the high nibble of `op_own` (`MLX5_CQE_*`).
 */
enum mlx5gda_cqe_opcode
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * A send-side WQE is done.
   */
  MLX5GDA_CQE_OPCODE_REQ = 0,
  /**
   * An RDMA write with immediate arrived.
   */
  MLX5GDA_CQE_OPCODE_RESP_WRITE_IMM = 1,
  /**
   * A send arrived.
   */
  MLX5GDA_CQE_OPCODE_RESP_SEND = 2,
  /**
   * A send with immediate arrived.
   */
  MLX5GDA_CQE_OPCODE_RESP_SEND_IMM = 3,
  /**
   * A send with invalidate arrived.
   */
  MLX5GDA_CQE_OPCODE_RESP_SEND_INVAL = 4,
  /**
   * The queue was resized.
   */
  MLX5GDA_CQE_OPCODE_RESIZE = 5,
  /**
   * A send-side WQE failed.
   */
  MLX5GDA_CQE_OPCODE_REQ_ERR = 13,
  /**
   * A receive WQE failed.
   */
  MLX5GDA_CQE_OPCODE_RESP_ERR = 14,
  /**
   * No completion has been written here.
   */
  MLX5GDA_CQE_OPCODE_INVALID = 15,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum mlx5gda_cqe_opcode mlx5gda_cqe_opcode;
#else
typedef uint8_t mlx5gda_cqe_opcode;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A 16-bit big-endian integer.
 */
typedef uint16_t mlx5gda_be16;

/**
 * A 32-bit big-endian integer.
 */
typedef uint32_t mlx5gda_be32;

/**
 * A 64-bit big-endian integer.
 */
typedef uint64_t mlx5gda_be64;

/**
 * The control segment, first in every WQE (`mlx5_wqe_ctrl_seg`).
 */
struct mlx5gda_ctrl_seg {
  /**
   * Opcode modifier in bits 31:24, WQE index in 23:8, opcode in 7:0.
   */
  mlx5gda_be32 opmod_idx_opcode;
  /**
   * Queue pair number in bits 31:8, WQE size in 16-byte units in 5:0.
   */
  mlx5gda_be32 qpn_ds;
  /**
   * Checksum, when signatures are on.
   */
  uint8_t signature;
  /**
   * Stream of a dynamically connected initiator, big endian.
   */
  uint8_t dci_stream_channel_id[2];
  /**
   * Fence mode in bits 7:5, completion mode in 3:2, solicited event in 1.
   */
  uint8_t fm_ce_se;
  /**
   * Immediate data.
   */
  mlx5gda_be32 imm;
};

/**
 * The remote address segment (`mlx5_wqe_raddr_seg`).
 */
struct mlx5gda_raddr_seg {
  /**
   * Remote virtual address.
   */
  mlx5gda_be64 raddr;
  /**
   * Remote key.
   */
  mlx5gda_be32 rkey;
  /**
   * Reserved.
   */
  mlx5gda_be32 reserved;
};

/**
 * A pointer to local memory (`mlx5_wqe_data_seg`).
 */
struct mlx5gda_data_seg {
  /**
   * Length in bytes, bit 31 clear.
   */
  mlx5gda_be32 byte_count;
  /**
   * Local key.
   */
  mlx5gda_be32 lkey;
  /**
   * Local virtual address.
   */
  mlx5gda_be64 addr;
};

/**
 * What precedes inline data (`mlx5_wqe_inl_data_seg`); the data follow at once and are
 * padded to a multiple of 16 bytes, these four included.
 */
struct mlx5gda_inline_header {
  /**
   * Length in bytes, bit 31 (`INLINE_SEG`) set.
   */
  mlx5gda_be32 byte_count;
};

/**
 * Operands of an 8-byte atomic (`mlx5_wqe_atomic_seg`). An 8-byte masked compare and swap
 * has two of these: operands, then masks.
 */
struct mlx5gda_atomic_seg {
  /**
   * New value, or addend.
   */
  mlx5gda_be64 swap_add;
  /**
   * Expected value.
   */
  mlx5gda_be64 compare;
};

/**
 * Operands of an 8-byte masked fetch and add.
 */
struct mlx5gda_masked_fetch_add_8_seg {
  /**
   * Addend.
   */
  mlx5gda_be64 add;
  /**
   * Top bit of each field.
   */
  mlx5gda_be64 boundary;
};

/**
 * Operands of a 4-byte masked fetch and add.
 */
struct mlx5gda_masked_fetch_add_4_seg {
  /**
   * Addend.
   */
  mlx5gda_be32 add;
  /**
   * Top bit of each field.
   */
  mlx5gda_be32 boundary;
  /**
   * Reserved.
   */
  mlx5gda_be64 reserved;
};

/**
 * Operands of a 4-byte masked compare and swap.
 */
struct mlx5gda_masked_compare_swap_4_seg {
  /**
   * New bits.
   */
  mlx5gda_be32 swap;
  /**
   * Expected bits.
   */
  mlx5gda_be32 compare;
  /**
   * Bits replaced.
   */
  mlx5gda_be32 swap_mask;
  /**
   * Bits compared.
   */
  mlx5gda_be32 compare_mask;
};

/**
 * A 64-byte completion queue entry.
 *
 * One layout serves both kinds of `mlx5dv.h`: an error CQE uses bytes 54 and 55, the last two of
 * `timestamp`, for the vendor syndrome and the syndrome.
 *
 * The device writes the entry by DMA with `op_own` last, so a poller reads `op_own` with acquire
 * ordering before the rest. These methods work on a copy taken after that.
 */
struct mlx5gda_cqe64 {
  /**
   * Reserved.
   */
  uint8_t rsvd0[2];
  /**
   * WQE identifier (shared receive queues).
   */
  mlx5gda_be16 wqe_id;
  /**
   * Reserved.
   */
  uint8_t rsvd4[13];
  /**
   * Message and path bits.
   */
  uint8_t ml_path;
  /**
   * Reserved.
   */
  uint8_t rsvd18[4];
  /**
   * Source LID.
   */
  mlx5gda_be16 slid;
  /**
   * Flags (top byte) and the remote QP number of a datagram.
   */
  mlx5gda_be32 flags_rqpn;
  /**
   * Header split and IP extension bits.
   */
  uint8_t hds_ip_ext;
  /**
   * Header type bits.
   */
  uint8_t l4_hdr_type_etc;
  /**
   * VLAN tag.
   */
  mlx5gda_be16 vlan_info;
  /**
   * Shared receive queue number, or the user index of the queue pair.
   */
  mlx5gda_be32 srqn_uidx;
  /**
   * Immediate data, invalidated key or partition key.
   */
  mlx5gda_be32 imm_inval_pkey;
  /**
   * Application.
   */
  uint8_t app;
  /**
   * Application operation.
   */
  uint8_t app_op;
  /**
   * Application information.
   */
  mlx5gda_be16 app_info;
  /**
   * Bytes received, or read.
   */
  mlx5gda_be32 byte_cnt;
  /**
   * Free-running device clock at completion.
   */
  mlx5gda_be64 timestamp;
  /**
   * Opcode of the send WQE (top byte) and queue pair number.
   */
  mlx5gda_be32 sop_drop_qpn;
  /**
   * Index of the completed WQE: its ring position modulo 65536, in 64-byte blocks.
   */
  mlx5gda_be16 wqe_counter;
  /**
   * Checksum, when signatures are on.
   */
  uint8_t signature;
  /**
   * Opcode in the high nibble, format, solicited bit, owner bit 0.
   */
  uint8_t op_own;
};

/**
 * The doorbell record of a queue pair: how far software has produced.
 *
 * The device reads it by DMA, so the counters must be in memory before the doorbell register is
 * written. Only the low 16 bits of each counter count.
 */
struct mlx5gda_qp_doorbell_record {
  /**
   * Receive WQEs posted so far, modulo 65536 (`MLX5_RCV_DBR`).
   */
  mlx5gda_be32 receive;
  /**
   * 64-byte blocks (WQEBBs) posted to the send queue so far, modulo 65536 (`MLX5_SND_DBR`).
   */
  mlx5gda_be32 send;
};

/**
 * The doorbell record of a completion queue.
 */
struct mlx5gda_cq_doorbell_record {
  /**
   * Completions consumed so far, low 24 bits.
   */
  mlx5gda_be32 consumer;
  /**
   * Arming: sequence in bits 29:28, command in bit 24, consumer counter in the low 24 bits.
   */
  mlx5gda_be32 arm;
};

#endif  /* MLX5GDA_H */
