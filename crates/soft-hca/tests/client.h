/*
 * A device with one queue pair and one completion queue, made by commands.
 * Bit offsets are those of the kernel's mlx5_ifc.h.
 */
enum { LOG = 4, ENTRIES = 1 << LOG, DATA = 1 << 17, CONTROL = 1 << 14 };
enum { RECEIVES = 0, SENDS = ENTRIES * 32, CQES = 4096, QP_RECORD = 8192, CQ_RECORD = 8256 };
enum { QPC = 0xc0, CQC = 0x80, MKC = 0x80, PATH = QPC + 0xc0 };

struct nic {
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_mr *mr;
	struct mlx5dv_devx_uar *uar;
	struct mlx5dv_devx_umem *umem;
	struct mlx5dv_devx_obj *cq, *qp;
	union ibv_gid gid;
	uint8_t *data, *control;
	uint32_t pdn, cqn, qpn, polled;
	uint16_t sent, received;
	uint8_t gid_index, mtu;
};

/* Writes a field of a mailbox: big-endian, bit 0 is the first byte's highest. */
static void put(uint8_t *in, unsigned bit, unsigned width, uint64_t value)
{
	while (width--) {
		unsigned at = bit + width;
		uint8_t mask = (uint8_t)(0x80 >> at % 8);

		in[at / 8] = (uint8_t)(value & 1 ? in[at / 8] | mask : in[at / 8] & ~mask);
		value >>= 1;
	}
}

static uint32_t get(const uint8_t *out, unsigned bit, unsigned width)
{
	uint32_t value = 0;

	for (unsigned at = bit; at < bit + width; at++)
		value = value << 1 | (out[at / 8] >> (7 - at % 8) & 1);
	return value;
}

static const char *create_cq(struct nic *of, uint32_t eqn)
{
	uint8_t in[272] = { 0 }, out[16] = { 0 };

	for (int i = 0; i < ENTRIES; i++)
		of->control[CQES + 64 * i + 63] = MLX5_CQE_INVALID << 4;
	put(in, 0x0, 16, 0x400);
	put(in, CQC + 0x6, 1, 1);
	put(in, CQC + 0x20, 32, of->umem->umem_id);
	put(in, CQC + 0x63, 5, LOG);
	put(in, CQC + 0x68, 24, of->uar->page_id);
	put(in, CQC + 0xa0, 32, eqn);
	put(in, CQC + 0x1c0, 64, CQ_RECORD);
	put(in, 0x280, 64, CQES);
	put(in, 0x2c0, 32, of->umem->umem_id);
	put(in, 0x2e0, 1, 1);
	of->cq = mlx5dv_devx_obj_create(of->context, in, sizeof(in), out, sizeof(out));
	of->cqn = get(out, 0x48, 24);
	return of->cq ? NULL : "CREATE_CQ";
}

static const char *create_qp(struct nic *of)
{
	uint8_t in[272] = { 0 }, out[16] = { 0 };

	put(in, 0x0, 16, 0x500);
	put(in, QPC + 0x13, 2, 3);
	put(in, QPC + 0x28, 24, of->pdn);
	put(in, QPC + 0x49, 4, LOG);
	put(in, QPC + 0x4d, 3, 1);
	put(in, QPC + 0x51, 4, LOG);
	put(in, QPC + 0x68, 24, of->uar->page_id);
	put(in, QPC + 0x3e8, 24, of->cqn);
	put(in, QPC + 0x4e8, 24, of->cqn);
	put(in, QPC + 0x500, 64, QP_RECORD);
	put(in, QPC + 0x683, 1, 1);
	put(in, QPC + 0x720, 32, of->umem->umem_id);
	put(in, 0x800, 64, RECEIVES);
	put(in, 0x840, 32, of->umem->umem_id);
	put(in, 0x860, 1, 1);
	of->qp = mlx5dv_devx_obj_create(of->context, in, sizeof(in), out, sizeof(out));
	of->qpn = get(out, 0x48, 24);
	return of->qp ? NULL : "CREATE_QP";
}

static const char *find_gid(struct nic *of)
{
	struct ibv_port_attr port;
	struct ibv_gid_entry entry;
	union ibv_gid plain;

	if (ibv_query_port(of->context, 1, &port) || port.state != IBV_PORT_ACTIVE ||
	    port.link_layer != IBV_LINK_LAYER_ETHERNET)
		return "ibv_query_port";
	of->mtu = (uint8_t)port.active_mtu;
	for (int i = 0; i < port.gid_tbl_len; i++) {
		if (ibv_query_gid_ex(of->context, 1, (uint32_t)i, &entry, 0))
			return "ibv_query_gid_ex";
		if (entry.gid_type != IBV_GID_TYPE_ROCE_V2)
			continue;
		of->gid = entry.gid;
		of->gid_index = (uint8_t)i;
		if (ibv_query_gid(of->context, 1, i, &plain) || memcmp(&plain, &entry.gid, 16))
			return "ibv_query_gid";
		return NULL;
	}
	return "no RoCE v2 GID";
}

static const char *open_nic(struct nic *to, struct ibv_device *device)
{
	struct mlx5dv_context_attr attr = {};
	struct mlx5dv_pd pd = {};
	struct mlx5dv_obj obj = {};
	const char *failed;
	uint32_t eqn;
	const int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
			   IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

	attr.flags = MLX5DV_CONTEXT_FLAGS_DEVX;
	to->context = mlx5dv_open_device(device, &attr);
	if (!to->context)
		return "mlx5dv_open_device";
	to->pd = ibv_alloc_pd(to->context);
	obj.pd.in = to->pd;
	obj.pd.out = &pd;
	if (!to->pd || mlx5dv_init_obj(&obj, MLX5DV_OBJ_PD))
		return "mlx5dv_init_obj";
	to->pdn = pd.pdn;
	to->data = (uint8_t *)aligned_alloc(4096, DATA);
	to->control = (uint8_t *)aligned_alloc(4096, CONTROL);
	if (!to->data || !to->control)
		return "aligned_alloc";
	memset(to->data, 0, DATA);
	memset(to->control, 0, CONTROL);
	to->mr = ibv_reg_mr(to->pd, to->data, DATA, access);
	to->umem = mlx5dv_devx_umem_reg(to->context, to->control, CONTROL, IBV_ACCESS_LOCAL_WRITE);
	to->uar = mlx5dv_devx_alloc_uar(to->context, MLX5_IB_UAPI_UAR_ALLOC_TYPE_BF);
	if (!to->mr || !to->umem || !to->uar)
		return "ibv_reg_mr, mlx5dv_devx_umem_reg or mlx5dv_devx_alloc_uar";
	if (mlx5dv_devx_query_eqn(to->context, 0, &eqn))
		return "mlx5dv_devx_query_eqn";
	failed = find_gid(to);
	if (!failed)
		failed = create_cq(to, eqn);
	return failed ? failed : create_qp(to);
}

/* Has the next completion raise an event. */
static void arm_cq(struct nic *of)
{
	uint32_t word = of->polled & 0xffffff;
	uint64_t doorbell = htobe64((uint64_t)word << 32 | of->cqn);
	uint64_t *reg = (uint64_t *)((uint8_t *)of->uar->base_addr + 0x20);

	__atomic_store_n((uint32_t *)(of->control + CQ_RECORD + 4), htobe32(word), __ATOMIC_RELEASE);
	__atomic_store_n(reg, doorbell, __ATOMIC_RELEASE);
}

/* A key for the data memory, which appears at its own address; 0 if refused. */
static uint32_t create_mkey(struct nic *of, struct mlx5dv_devx_umem *umem,
			    struct mlx5dv_devx_obj **obj)
{
	uint8_t in[272] = { 0 }, out[16] = { 0 };

	put(in, 0x0, 16, 0x200);
	put(in, MKC + 0x12, 1, 1);
	put(in, MKC + 0x14, 2, 3);
	put(in, MKC + 0x16, 2, 1);
	put(in, MKC + 0x20, 24, 0xffffff);
	put(in, MKC + 0x38, 8, 0x42);
	put(in, MKC + 0x68, 24, of->pdn);
	put(in, MKC + 0x80, 64, (uintptr_t)of->data);
	put(in, MKC + 0xc0, 64, DATA);
	/* Pages of 4 KiB; two translations take 16 bytes. */
	put(in, MKC + 0x1a0, 32, DATA / 4096 / 2);
	put(in, MKC + 0x1db, 5, 12);
	put(in, 0x300, 32, DATA / 4096 / 2);
	put(in, 0x320, 32, umem->umem_id);
	*obj = mlx5dv_devx_obj_create(of->context, in, sizeof(in), out, sizeof(out));
	return *obj ? get(out, 0x48, 24) << 8 | 0x42 : 0;
}

static int modify(struct nic *of, uint8_t *in, unsigned opcode)
{
	uint8_t out[16] = { 0 };

	put(in, 0x0, 16, opcode);
	put(in, 0x48, 24, of->qpn);
	return mlx5dv_devx_obj_modify(of->qp, in, 272, out, sizeof(out));
}

static const char *connect_qp(struct nic *of, struct nic *peer)
{
	uint8_t init[272] = { 0 }, rtr[272] = { 0 }, rts[272] = { 0 };
	struct ibv_ah_attr path = {};
	struct mlx5dv_ah vector = {};
	const uint8_t none[6] = { 0 };
	struct mlx5dv_obj obj = {};
	struct ibv_ah *ah;

	put(init, QPC + 0x13, 2, 3);
	put(init, PATH + 0x128, 8, 1);
	if (modify(of, init, 0x502))
		return "RST2INIT_QP";

	path.is_global = 1;
	path.port_num = 1;
	path.grh.dgid = peer->gid;
	path.grh.sgid_index = of->gid_index;
	path.grh.hop_limit = 64;
	ah = ibv_create_ah(of->pd, &path);
	obj.ah.in = ah;
	obj.ah.out = &vector;
	if (!ah || mlx5dv_init_obj(&obj, MLX5DV_OBJ_AH) ||
	    memcmp(vector.av->rgid, peer->gid.raw, 16) || vector.av->hop_limit != 64 ||
	    !memcmp(vector.av->rmac, none, 6))
		return "mlx5dv_init_obj of a path";
	for (unsigned i = 0; i < 6; i++)
		put(rtr, PATH + 0x130 + 8 * i, 8, vector.av->rmac[i]);
	if (ibv_destroy_ah(ah))
		return "ibv_destroy_ah";

	/* Remote read, atomic and write are allowed. */
	put(rtr, 0x80, 32, 1 << 1 | 1 << 2 | 1 << 3);
	put(rtr, QPC + 0x490, 3, 7);
	/* Atomics of up to 8 bytes, masked ones too. */
	put(rtr, QPC + 0x48c, 4, 3);
	put(rtr, QPC + 0x40, 3, of->mtu);
	put(rtr, QPC + 0x43, 5, 30);
	put(rtr, QPC + 0xa8, 24, peer->qpn);
	put(rtr, QPC + 0x488, 3, 2);
	put(rtr, QPC + 0x4a3, 5, 12);
	put(rtr, QPC + 0x4a8, 24, peer->qpn);
	for (unsigned i = 0; i < 16; i++)
		put(rtr, PATH + 0x80 + 8 * i, 8, peer->gid.raw[i]);
	put(rtr, PATH + 0x48, 8, of->gid_index);
	put(rtr, PATH + 0x58, 8, 64);
	put(rtr, PATH + 0x110, 16, 0xc000 | (of->qpn & 0x3fff));
	put(rtr, PATH + 0x128, 8, 1);
	if (modify(of, rtr, 0x503))
		return "INIT2RTR_QP";

	/* Each end's packets are numbered from its queue pair's number. */
	put(rts, QPC + 0x3c8, 24, of->qpn);
	put(rts, QPC + 0x388, 3, 2);
	put(rts, QPC + 0x38d, 3, 7);
	put(rts, QPC + 0x390, 3, 7);
	put(rts, PATH + 0x40, 5, 14);
	return modify(of, rts, 0x504) ? "RTR2RTS_QP" : NULL;
}

static uint32_t qp_state(struct nic *of)
{
	uint8_t in[16] = { 0 }, out[272] = { 0 };

	put(in, 0x0, 16, 0x50b);
	put(in, 0x48, 24, of->qpn);
	if (mlx5dv_devx_obj_query(of->qp, in, sizeof(in), out, sizeof(out)))
		return 0xff;
	return get(out, QPC, 4);
}

static void record(struct nic *of, unsigned offset, uint32_t value)
{
	__atomic_store_n((uint32_t *)(of->control + offset), htobe32(value), __ATOMIC_RELEASE);
}

static struct mlx5_wqe_ctrl_seg *next_wqe(struct nic *of)
{
	return (struct mlx5_wqe_ctrl_seg *)(of->control + SENDS + of->sent % ENTRIES * 64);
}

static void ring(struct nic *of, struct mlx5_wqe_ctrl_seg *ctrl)
{
	uint64_t first;

	memcpy(&first, ctrl, 8);
	record(of, QP_RECORD + 4, ++of->sent);
	__atomic_store_n((uint64_t *)of->uar->reg_addr, first, __ATOMIC_RELEASE);
}

static void post_receive(struct nic *of, uint64_t offset, uint32_t length)
{
	struct mlx5_wqe_data_seg *seg =
		(struct mlx5_wqe_data_seg *)(of->control + RECEIVES + of->received % ENTRIES * 32);

	mlx5dv_set_data_seg(seg, length, of->mr->lkey, (uintptr_t)of->data + offset);
	mlx5dv_set_data_seg(seg + 1, 0, 0x100, 0);
	record(of, QP_RECORD, ++of->received);
}

/* Copies the next completion; 0 if none comes within ten seconds. */
static int poll_cq(struct nic *of, struct mlx5_cqe64 *out)
{
	struct mlx5_cqe64 *cqe =
		(struct mlx5_cqe64 *)(of->control + CQES + of->polled % ENTRIES * 64);
	time_t until = time(NULL) + 10;

	for (;;) {
		uint8_t op_own = __atomic_load_n(&cqe->op_own, __ATOMIC_ACQUIRE);

		if (op_own >> 4 != MLX5_CQE_INVALID && (op_own & 1) == (of->polled >> LOG & 1))
			break;
		if (time(NULL) > until)
			return 0;
	}
	*out = *cqe;
	record(of, CQ_RECORD, ++of->polled & 0xffffff);
	return 1;
}

static const char *close_nic(struct nic *of)
{
	if (mlx5dv_devx_obj_destroy(of->qp) || mlx5dv_devx_obj_destroy(of->cq))
		return "mlx5dv_devx_obj_destroy";
	mlx5dv_devx_free_uar(of->uar);
	if (mlx5dv_devx_umem_dereg(of->umem) || ibv_dereg_mr(of->mr) || ibv_dealloc_pd(of->pd))
		return "mlx5dv_devx_umem_dereg, ibv_dereg_mr or ibv_dealloc_pd";
	free(of->data);
	free(of->control);
	return ibv_close_device(of->context) ? "ibv_close_device" : NULL;
}
