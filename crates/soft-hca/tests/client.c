/*
 * A client of the devx interface of mlx5, written against rdma-core's headers
 * and nothing else. It opens two devices, connects a queue pair of one to one of
 * the other, and posts work by writing entries and ringing the doorbell.
 *
 * Also compiles as C++. Prints a line for each thing that holds; the first that
 * does not ends the program.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <infiniband/mlx5dv.h>
#include <infiniband/verbs.h>

#include "client.h"

static unsigned checks;

#define CHECK(what, holds)                                                     \
	do {                                                                   \
		if (!(holds)) {                                                \
			fprintf(stderr, "FAILED (line %d): %s, errno %d\n",    \
				__LINE__, what, errno);                        \
			exit(1);                                               \
		}                                                              \
		printf("ok %u %s\n", ++checks, what);                          \
	} while (0)

static struct nic a, b;

static void posted_as(struct nic *to, uint8_t opcode, uint8_t opmod, uint32_t imm, int segments)
{
	struct mlx5_wqe_ctrl_seg *ctrl = next_wqe(to);

	mlx5dv_set_ctrl_seg(ctrl, to->sent, opcode, opmod, to->qpn, MLX5_WQE_CTRL_CQ_UPDATE,
			    (uint8_t)(1 + segments), 0, htobe32(imm));
	ring(to, ctrl);
}

static void posted(struct nic *to, uint8_t opcode, uint32_t imm, int segments)
{
	posted_as(to, opcode, 0, imm, segments);
}

static void *segment(struct nic *of, int index)
{
	return (char *)next_wqe(of) + 16 * index;
}

static void remote(struct nic *from, uint64_t offset, uint32_t key)
{
	struct mlx5_wqe_raddr_seg *seg = (struct mlx5_wqe_raddr_seg *)segment(from, 1);

	seg->raddr = htobe64((uintptr_t)b.data + offset);
	seg->rkey = htobe32(key);
	seg->reserved = 0;
}

static void local(struct nic *from, int index, uint64_t offset, uint32_t length)
{
	mlx5dv_set_data_seg((struct mlx5_wqe_data_seg *)segment(from, index), length,
			    from->mr->lkey, (uintptr_t)from->data + offset);
}

static void atomic(struct nic *from, uint64_t swap_or_add, uint64_t compare)
{
	struct mlx5_wqe_atomic_seg *seg = (struct mlx5_wqe_atomic_seg *)segment(from, 2);

	seg->swap_add = htobe64(swap_or_add);
	seg->compare = htobe64(compare);
}

static void fill(struct nic *in, size_t offset, size_t length, unsigned seed)
{
	for (size_t i = 0; i < length; i++)
		in->data[offset + i] = (uint8_t)(i * 7 + seed);
}

/* The opcode of the next completion. */
static int completed(struct nic *at, struct mlx5_cqe64 *cqe)
{
	if (!poll_cq(at, cqe)) {
		fprintf(stderr, "FAILED: a completion is missing\n");
		exit(1);
	}
	return mlx5dv_get_cqe_opcode(cqe);
}

static void data_path(void)
{
	struct mlx5_cqe64 cqe;
	uint64_t word = 41;

	fill(&a, 0, 10000, 3);
	remote(&a, 4096, b.mr->rkey);
	local(&a, 2, 0, 10000);
	posted(&a, MLX5_OPCODE_RDMA_WRITE, 0, 2);
	CHECK("a write completes", completed(&a, &cqe) == MLX5_CQE_REQ);
	CHECK("what was written is there", !memcmp(a.data, b.data + 4096, 10000));

	fill(&b, 20000, 5000, 5);
	remote(&a, 20000, b.mr->rkey);
	local(&a, 2, 40000, 5000);
	posted(&a, MLX5_OPCODE_RDMA_READ, 0, 2);
	CHECK("a read completes", completed(&a, &cqe) == MLX5_CQE_REQ);
	CHECK("what was read is there", !memcmp(a.data + 40000, b.data + 20000, 5000));

	/* More than the rings hold, so they wrap. */
	for (unsigned i = 0; i < 40; i++) {
		uint32_t length = 1 + i * 90;

		post_receive(&b, 60000, 4096);
		fill(&a, 0, length, i);
		local(&a, 1, 0, length);
		posted(&a, i % 2 ? MLX5_OPCODE_SEND_IMM : MLX5_OPCODE_SEND, 0xabcd0000 + i, 1);
		int expected = i % 2 ? MLX5_CQE_RESP_SEND_IMM : MLX5_CQE_RESP_SEND;
		if (completed(&b, &cqe) != expected || be32toh(cqe.byte_cnt) != length ||
		    be16toh(cqe.wqe_counter) != i ||
		    (i % 2 && be32toh(cqe.imm_inval_pkey) != 0xabcd0000 + i) ||
		    memcmp(a.data, b.data + 60000, length) ||
		    completed(&a, &cqe) != MLX5_CQE_REQ) {
			fprintf(stderr, "FAILED: message %u\n", i);
			exit(1);
		}
	}
	CHECK("40 messages arrive in their buffers", 1);

	post_receive(&b, 60000, 4096);
	fill(&a, 0, 64, 9);
	remote(&a, 8, b.mr->rkey);
	local(&a, 2, 0, 64);
	posted(&a, MLX5_OPCODE_RDMA_WRITE_IMM, 77, 2);
	CHECK("a write with immediate takes a receive",
	      completed(&b, &cqe) == MLX5_CQE_RESP_WR_IMM && be32toh(cqe.imm_inval_pkey) == 77);
	CHECK("and completes", completed(&a, &cqe) == MLX5_CQE_REQ && !memcmp(a.data, b.data + 8, 64));

	memcpy(b.data, &word, 8);
	remote(&a, 0, b.mr->rkey);
	atomic(&a, 1, 0);
	local(&a, 3, 0, 8);
	posted(&a, MLX5_OPCODE_ATOMIC_FA, 0, 3);
	CHECK("a fetch-and-add completes", completed(&a, &cqe) == MLX5_CQE_REQ);
	CHECK("it returns the old value", !memcmp(a.data, &word, 8));
	word = 42;
	CHECK("it leaves the sum", !memcmp(b.data, &word, 8));

	remote(&a, 0, b.mr->rkey);
	atomic(&a, 1000, 42);
	local(&a, 3, 0, 8);
	posted(&a, MLX5_OPCODE_ATOMIC_CS, 0, 3);
	CHECK("a compare-and-swap completes", completed(&a, &cqe) == MLX5_CQE_REQ);
	CHECK("it returns what it compared", !memcmp(a.data, &word, 8));
	word = 1000;
	CHECK("it swapped", !memcmp(b.data, &word, 8));

	word = 0x00ff00ff;
	memcpy(b.data, &word, 8);
	remote(&a, 0, b.mr->rkey);
	atomic(&a, 0x00010001, 0x80008000);
	local(&a, 3, 0, 8);
	posted_as(&a, MLX5_OPCODE_ATOMIC_MASKED_FA, 9, 0, 3);
	CHECK("a masked fetch-and-add completes", completed(&a, &cqe) == MLX5_CQE_REQ);
	CHECK("it returns the old value too", !memcmp(a.data, &word, 8));
	word = 0x01000100;
	CHECK("it added field by field", !memcmp(b.data, &word, 8));

	remote(&a, 0, b.mr->rkey + 0x100);
	local(&a, 2, 0, 8);
	posted(&a, MLX5_OPCODE_RDMA_WRITE, 0, 2);
	CHECK("a wrong key is an error completion", completed(&a, &cqe) == MLX5_CQE_REQ_ERR);
	CHECK("which says remote access",
	      ((struct mlx5_err_cqe *)&cqe)->syndrome == MLX5_CQE_SYNDROME_REMOTE_ACCESS_ERR);
	CHECK("and the queue pair is in Error", qp_state(&a) == 6);
	CHECK("memory is as it was", !memcmp(b.data, &word, 8));
}

/* A completion and a refused request, as event channels tell of them. */
static void events(void)
{
	uint64_t room[9];
	struct mlx5dv_devx_async_event_hdr *event = (struct mlx5dv_devx_async_event_hdr *)room;
	struct mlx5dv_devx_event_channel *channel;
	struct mlx5_cqe64 cqe;
	uint16_t completion = 0, refusals[2] = { 0x10, 0x11 };

	channel = mlx5dv_devx_create_event_channel(
		a.context, (enum mlx5dv_devx_create_event_channel_flags)0);
	CHECK("an event channel", channel && channel->fd >= 0);
	CHECK("a subscription to completions",
	      !mlx5dv_devx_subscribe_devx_event(channel, a.cq, 2, &completion, 0x1234));
	CHECK("none to what a completion queue has not",
	      mlx5dv_devx_subscribe_devx_event(channel, a.cq, 4, refusals, 0));
	arm_cq(&a);
	posted(&a, MLX5_OPCODE_NOP, 0, 0);
	CHECK("an armed queue tells of its completion",
	      mlx5dv_devx_get_event(channel, event, sizeof(room)) == sizeof(room) &&
	      event->cookie == 0x1234 && event->out_data[1] == 0 &&
	      get(event->out_data, 56 * 8, 32) == a.cqn);
	CHECK("which is there", completed(&a, &cqe) == MLX5_CQE_REQ);
	CHECK("and only once", !fcntl(channel->fd, F_SETFL, O_NONBLOCK) &&
	      mlx5dv_devx_get_event(channel, event, sizeof(room)) == -1 &&
	      errno == EAGAIN);
	mlx5dv_devx_destroy_event_channel(channel);
}

/* A write through a memory key that a command made. */
static void memory_key(void)
{
	struct mlx5dv_devx_umem *umem =
		mlx5dv_devx_umem_reg(b.context, b.data, DATA, IBV_ACCESS_LOCAL_WRITE);
	struct mlx5dv_devx_obj *obj = NULL;
	struct mlx5_cqe64 cqe;
	uint32_t key = umem ? create_mkey(&b, umem, &obj) : 0;

	CHECK("a memory key over a umem", key);
	fill(&a, 0, 500, 6);
	remote(&a, 9000, key);
	local(&a, 2, 0, 500);
	posted(&a, MLX5_OPCODE_RDMA_WRITE, 0, 2);
	CHECK("a write through it completes", completed(&a, &cqe) == MLX5_CQE_REQ);
	CHECK("and arrives", !memcmp(a.data, b.data + 9000, 500));
	CHECK("its memory stays as long as it does", mlx5dv_devx_umem_dereg(umem) == EBUSY);
	CHECK("both are freed", !mlx5dv_devx_obj_destroy(obj) && !mlx5dv_devx_umem_dereg(umem));
}

/* What the inline functions of the headers make of the context. */
static void control_path(void)
{
	struct ibv_device_attr_ex device;
	struct ibv_gid_entry gids[8];
	struct ibv_async_event event;
	struct mlx5dv_context direct;
	struct mlx5dv_devx_umem_in wanted = {};
	struct mlx5dv_devx_umem *umem;
	struct ibv_ah_attr path = {};
	struct ibv_mr *mr;
	uint8_t mac[6];
	uint16_t vid;
	__be16 pkey;
	int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_RELAXED_ORDERING;

	CHECK("the context is an extended one",
	      verbs_get_ctx_op(a.context, query_port) && verbs_get_ctx_op(a.context, query_device_ex));
	CHECK("extended attributes", !ibv_query_device_ex(a.context, NULL, &device) &&
	      device.orig_attr.phys_port_cnt == 1 && device.phys_port_cnt_ex == 1 &&
	      device.max_dm_size == 0);
	CHECK("the GUID is the device's",
	      ibv_get_device_guid(a.context->device) == device.orig_attr.node_guid);
	CHECK("the table of GIDs", ibv_query_gid_table(a.context, gids, 8, 0) > a.gid_index &&
	      !memcmp(&gids[a.gid_index].gid, &a.gid, 16));
	CHECK("a table too long for its array", ibv_query_gid_table(a.context, gids, 1, 0) == -EINVAL);
	CHECK("the partition key", !ibv_query_pkey(a.context, 1, 0, &pkey) && pkey == 0xffff &&
	      ibv_get_pkey_index(a.context, 1, pkey) == 0);
	CHECK("no other port", ibv_query_pkey(a.context, 2, 0, &pkey) == -1);
	mr = ibv_reg_mr_iova(a.pd, a.data, 4096, 0x10000, IBV_ACCESS_LOCAL_WRITE);
	CHECK("memory at another address", mr && !ibv_dereg_mr(mr));
	mr = ibv_reg_mr(a.pd, a.data, 4096, access);
	CHECK("memory with an optional flag", mr && !ibv_dereg_mr(mr));
	memset(&direct, 0xff, sizeof(direct));
	CHECK("what mlx5 devices have", !mlx5dv_query_device(a.context, &direct) &&
	      direct.version == 0 && direct.flags == MLX5DV_CONTEXT_FLAGS_CQE_V1 &&
	      direct.comp_mask == 0);
	wanted.addr = a.data;
	wanted.size = 4096;
	wanted.pgsz_bitmap = 4096;
	umem = mlx5dv_devx_umem_reg_ex(a.context, &wanted);
	CHECK("memory for queues with a choice of pages", umem && !mlx5dv_devx_umem_dereg(umem));
	wanted.pgsz_bitmap = 0;
	CHECK("not without any", !mlx5dv_devx_umem_reg_ex(a.context, &wanted) && errno == EINVAL);
	path.grh.dgid = b.gid;
	CHECK("the MAC address behind a GID",
	      !ibv_resolve_eth_l2_from_gid(a.context, &path, mac, &vid) &&
	      !(mac[0] & 1) && vid == 0xffff);
	CHECK("names of values", !strcmp(ibv_port_state_str(IBV_PORT_ACTIVE), "PORT_ACTIVE") &&
	      strlen(ibv_wc_status_str(IBV_WC_GENERAL_ERR)) &&
	      strlen(ibv_node_type_str(a.context->device->node_type)) &&
	      strlen(ibv_event_type_str(IBV_EVENT_PORT_ERR)));
	CHECK("no event without waiting", !fcntl(a.context->async_fd, F_SETFL, O_NONBLOCK) &&
	      ibv_get_async_event(a.context, &event) == -1 && errno == EAGAIN);
	CHECK("what there is not is said to be unsupported",
	      !ibv_alloc_td(a.context, NULL) && errno == EOPNOTSUPP);
}

int main(void)
{
	int count = 0;
	struct ibv_device **list = ibv_get_device_list(&count);

	CHECK("there are two devices", list && count == 2 && list[0] && list[1] && !list[2]);
	CHECK("they have names", ibv_get_device_name(list[0]) && ibv_get_device_name(list[1]) &&
	      strcmp(ibv_get_device_name(list[0]), ibv_get_device_name(list[1])));
	CHECK("they are mlx5's", mlx5dv_is_supported(list[0]) && mlx5dv_is_supported(list[1]));
	const char *failed = open_nic(&a, list[0]);
	CHECK(failed ? failed : "the first opens", !failed);
	failed = open_nic(&b, list[1]);
	CHECK(failed ? failed : "the second opens", !failed);
	ibv_free_device_list(list);

	struct ibv_device_attr device;
	CHECK("a device has attributes", !ibv_query_device(a.context, &device) &&
	      device.phys_port_cnt == 1 && device.max_qp > 1);
	CHECK("addresses differ", memcmp(&a.gid, &b.gid, 16));
	failed = connect_qp(&a, &b);
	CHECK(failed ? failed : "one end connects", !failed);
	failed = connect_qp(&b, &a);
	CHECK(failed ? failed : "the other end connects", !failed);
	CHECK("both are ready to send", qp_state(&a) == 3 && qp_state(&b) == 3);
	control_path();
	events();
	memory_key();
	data_path();
	failed = close_nic(&a);
	CHECK(failed ? failed : "the first is taken apart", !failed);
	failed = close_nic(&b);
	CHECK(failed ? failed : "the second is taken apart", !failed);
	printf("%u checks passed\n", checks);
	return 0;
}
