/* Runs in the guest and does to the kernel's Soft-RoCE, through libibverbs, what lines of text over
 * TCP ask for: `cargo xtask rxe-check` compiles it and the other side is
 * crates/soft-hca/examples/rxe_peer.rs. Every line is answered by one: "ok ..." or "err ...".
 *
 *   memory                               ok ADDR RKEY
 *   qp                                   ok QPN         a new queue pair in place of the last
 *   connect QPN GID-IPV4 RQPSN SQPSN MTU ok             MTU in bytes
 *   fill OFFSET LEN SEED                 ok             the pattern of this seed
 *   check OFFSET LEN SEED                ok             or err with the first wrong offset
 *   set OFFSET VALUE                     ok             8 bytes
 *   get OFFSET                           ok VALUE
 *   receive OFFSET LEN                   ok             posts a receive
 *   post OP OFFSET LEN ADDR RKEY X Y     ok             OP as in `operations`
 *   poll MILLISECONDS                    ok STATUS OPCODE LEN IMMEDIATE
 *   loss PERCENT                         ok             of what the guest sends
 *   quit
 */
#include <arpa/inet.h>
#include <endian.h>
#include <infiniband/verbs.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 7471, BYTES = 1 << 20, DEPTH = 64, READS = 16 };

static const struct {
	const char *name;
	enum ibv_wr_opcode opcode;
} operations[] = {
	{ "write", IBV_WR_RDMA_WRITE },
	{ "write-imm", IBV_WR_RDMA_WRITE_WITH_IMM },
	{ "read", IBV_WR_RDMA_READ },
	{ "send", IBV_WR_SEND },
	{ "send-imm", IBV_WR_SEND_WITH_IMM },
	{ "add", IBV_WR_ATOMIC_FETCH_AND_ADD },
	{ "swap", IBV_WR_ATOMIC_CMP_AND_SWP },
};

static struct ibv_context *context;
static struct ibv_pd *pd;
static struct ibv_cq *cq;
static struct ibv_mr *mr;
static struct ibv_qp *qp;
static uint8_t *memory;
static int gid_index = -1;

static const int ACCESS = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
			  IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

static union ibv_gid mapped(struct in_addr address)
{
	union ibv_gid gid = { .raw = { 0 } };

	gid.raw[10] = gid.raw[11] = 0xff;
	memcpy(gid.raw + 12, &address, 4);
	return gid;
}

static const char *open_device(const char *name, const char *address)
{
	struct in_addr ours;
	struct ibv_device **list;
	union ibv_gid wanted, gid;
	int count = 0, tries;

	if (!inet_aton(address, &ours))
		return "no such address";
	wanted = mapped(ours);
	list = ibv_get_device_list(&count);
	for (int i = 0; i < count; i++)
		if (!strcmp(ibv_get_device_name(list[i]), name))
			context = ibv_open_device(list[i]);
	if (!context)
		return "device does not open";
	/* The kernel fills the table on a thread of its own. */
	for (tries = 0; tries < 100 && gid_index < 0; tries++) {
		for (int i = 0; i < 16 && gid_index < 0; i++)
			if (!ibv_query_gid(context, 1, i, &gid) && !memcmp(&gid, &wanted, 16))
				gid_index = i;
		if (gid_index < 0)
			usleep(50000);
	}
	if (gid_index < 0)
		return "no GID for the address";
	pd = ibv_alloc_pd(context);
	cq = ibv_create_cq(context, 4 * DEPTH, NULL, NULL, 0);
	memory = aligned_alloc(4096, BYTES);
	if (!pd || !cq || !memory)
		return "no PD, CQ or memory";
	memset(memory, 0, BYTES);
	mr = ibv_reg_mr(pd, memory, BYTES, ACCESS);
	return mr ? NULL : "memory is not registered";
}

static const char *new_qp(void)
{
	struct ibv_qp_init_attr init = {
		.send_cq = cq, .recv_cq = cq, .qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = DEPTH, .max_recv_wr = DEPTH,
			 .max_send_sge = 1, .max_recv_sge = 1 },
	};
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT, .port_num = 1,
				    .qp_access_flags = ACCESS };
	struct ibv_wc wc;

	if (qp && ibv_destroy_qp(qp))
		return "the last queue pair stays";
	while (ibv_poll_cq(cq, 1, &wc) > 0)
		;
	qp = ibv_create_qp(pd, &init);
	if (!qp)
		return "no queue pair";
	if (ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
					     IBV_QP_ACCESS_FLAGS))
		return "not to INIT";
	return NULL;
}

static const char *connect_qp(uint32_t qpn, struct in_addr peer, uint32_t rq_psn, uint32_t sq_psn,
			      int mtu)
{
	struct ibv_qp_attr rtr = {
		.qp_state = IBV_QPS_RTR, .dest_qp_num = qpn, .rq_psn = rq_psn,
		.path_mtu = mtu == 4096 ? IBV_MTU_4096 : mtu == 2048 ? IBV_MTU_2048 :
			    mtu == 1024 ? IBV_MTU_1024 : mtu == 512 ? IBV_MTU_512 : IBV_MTU_256,
		.max_dest_rd_atomic = READS, .min_rnr_timer = 14,
		.ah_attr = { .is_global = 1, .port_num = 1,
			     .grh = { .dgid = mapped(peer), .sgid_index = gid_index,
				      .hop_limit = 64 } },
	};
	struct ibv_qp_attr rts = { .qp_state = IBV_QPS_RTS, .timeout = 16, .retry_cnt = 7,
				   .rnr_retry = 7, .sq_psn = sq_psn, .max_rd_atomic = READS };

	if (ibv_modify_qp(qp, &rtr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
					    IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
					    IBV_QP_MIN_RNR_TIMER))
		return "not to RTR";
	if (ibv_modify_qp(qp, &rts, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
					    IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
					    IBV_QP_MAX_QP_RD_ATOMIC))
		return "not to RTS";
	return NULL;
}

static const char *post(const char *name, uint64_t offset, uint32_t len, uint64_t addr,
			uint32_t rkey, uint64_t x, uint64_t y)
{
	struct ibv_sge sge = { (uintptr_t)memory + offset, len, mr->lkey };
	struct ibv_send_wr wr = { .sg_list = len ? &sge : NULL, .num_sge = len ? 1 : 0,
				  .send_flags = IBV_SEND_SIGNALED }, *bad;
	size_t i, count = sizeof operations / sizeof *operations;

	for (i = 0; i < count && strcmp(operations[i].name, name); i++)
		;
	if (i == count)
		return "no such operation";
	wr.opcode = operations[i].opcode;
	if (wr.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD || wr.opcode == IBV_WR_ATOMIC_CMP_AND_SWP) {
		wr.wr.atomic.remote_addr = addr;
		wr.wr.atomic.rkey = rkey;
		wr.wr.atomic.compare_add = x;
		wr.wr.atomic.swap = y;
	} else {
		wr.wr.rdma.remote_addr = addr;
		wr.wr.rdma.rkey = rkey;
		wr.imm_data = htobe32(x);
	}
	return ibv_post_send(qp, &wr, &bad) ? "not posted" : NULL;
}

static const char *receive(uint64_t offset, uint32_t len)
{
	struct ibv_sge sge = { (uintptr_t)memory + offset, len, mr->lkey };
	struct ibv_recv_wr wr = { .sg_list = len ? &sge : NULL, .num_sge = len ? 1 : 0 }, *bad;

	return ibv_post_recv(qp, &wr, &bad) ? "not posted" : NULL;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static const char *poll_one(double limit, struct ibv_wc *wc)
{
	double until = seconds() + limit;
	int count;

	while ((count = ibv_poll_cq(cq, 1, wc)) == 0) {
		if (seconds() > until)
			return "no completion";
		/* The device's work is done by threads of the kernel. */
		sched_yield();
	}
	return count < 0 ? "the queue cannot be polled" : NULL;
}

static uint8_t pattern(uint64_t i, uint64_t seed)
{
	return (uint8_t)(i * 31 + i / 251 + seed);
}

static int inside(uint64_t offset, uint64_t len)
{
	return offset <= BYTES && len <= BYTES - offset;
}

/* Does what `line` says and writes the answer. */
static void serve(char *line, FILE *to)
{
	static const char *const layout = "%15s %" SCNi64 " %" SCNi64 " %" SCNi64 " %" SCNi64
					  " %" SCNi64 " %" SCNi64;
	char verb[16], word[16], command[96];
	int64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0;
	const char *wrong = NULL;
	struct in_addr peer;
	struct ibv_wc wc;
	int n;

	if (sscanf(line, "%15s%n", verb, &n) != 1)
		strcpy(verb, "nothing");
	else
		line += n;
	if (!strcmp(verb, "post")) {
		if (sscanf(line, layout, word, &a, &b, &c, &d, &e, &f) != 7 || !inside(a, b))
			wrong = "bad arguments";
		else
			wrong = post(word, a, b, c, d, e, f);
	} else if (!strcmp(verb, "connect")) {
		if (sscanf(line, "%" SCNi64 " %15s %" SCNi64 " %" SCNi64 " %" SCNi64, &a, word,
			   &b, &c, &d) != 5 || !inet_aton(word, &peer))
			wrong = "bad arguments";
		else
			wrong = connect_qp(a, peer, b, c, d);
	} else {
		sscanf(line, "%" SCNi64 " %" SCNi64 " %" SCNi64, &a, &b, &c);
		if (!strcmp(verb, "memory")) {
			fprintf(to, "ok %" PRIu64 " %u\n", (uint64_t)(uintptr_t)memory, mr->rkey);
			return;
		} else if (!strcmp(verb, "qp")) {
			wrong = new_qp();
			if (!wrong) {
				fprintf(to, "ok %u\n", qp->qp_num);
				return;
			}
		} else if (!strcmp(verb, "poll")) {
			wrong = poll_one(a / 1e3, &wc);
			if (!wrong) {
				fprintf(to, "ok %d %d %u %u\n", wc.status, wc.opcode, wc.byte_len,
					wc.wc_flags & IBV_WC_WITH_IMM ? be32toh(wc.imm_data) : 0);
				return;
			}
		} else if (!strcmp(verb, "loss")) {
			snprintf(command, sizeof command,
				 "/usr/sbin/tc qdisc replace dev eth0 root netem loss %d%% limit 10000",
				 (int)a);
			wrong = system(command) ? "tc failed" : NULL;
		} else if (!inside(a, !strcmp(verb, "set") || !strcmp(verb, "get") ? 8 : b)) {
			wrong = "outside of the memory";
		} else if (!strcmp(verb, "fill")) {
			for (int64_t i = 0; i < b; i++)
				memory[a + i] = pattern(i, c);
		} else if (!strcmp(verb, "check")) {
			for (int64_t i = 0; i < b; i++)
				if (memory[a + i] != pattern(i, c)) {
					fprintf(to, "err byte %" PRIi64 " is %u\n", i, memory[a + i]);
					return;
				}
		} else if (!strcmp(verb, "set")) {
			memcpy(memory + a, &b, 8);
		} else if (!strcmp(verb, "get")) {
			memcpy(&b, memory + a, 8);
			fprintf(to, "ok %" PRIu64 "\n", (uint64_t)b);
			return;
		} else if (!strcmp(verb, "receive")) {
			wrong = receive(a, b);
		} else {
			wrong = "no such command";
		}
	}
	if (wrong)
		fprintf(to, "err %s\n", wrong);
	else
		fprintf(to, "ok\n");
}

int main(int argc, char **argv)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1, peer;
	const char *wrong = argc == 3 ? open_device(argv[1], argv[2]) : "agent DEVICE ADDRESS";
	FILE *from, *to;
	char line[256];

	if (wrong) {
		printf("agent: %s\n", wrong);
		return 1;
	}
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 1)) {
		perror("agent: listen");
		return 1;
	}
	printf("agent: listening\n");
	fflush(stdout);
	peer = accept(listener, NULL, NULL);
	if (peer < 0) {
		perror("agent: accept");
		return 1;
	}
	setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	from = fdopen(peer, "r");
	to = fdopen(dup(peer), "w");
	while (from && to && fgets(line, sizeof line, from) && strncmp(line, "quit", 4)) {
		serve(line, to);
		fflush(to);
	}
	return 0;
}
