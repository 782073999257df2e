//! Any mailboxes, in any order, to a live device.

use mlx5gda_sys::ffi;
use mlx5gda_sys::prm::{
    CapMode, CapType, DestroyCqIn, DestroyQpIn, Init2InitQpIn, Init2RtrQpIn, Layout, ModifyCqIn,
    Mtu, Qp2ErrIn, Qp2RstIn, QueryCqIn, QueryHcaCapIn, QueryQpIn, Rst2InitQpIn, Rtr2RtsQpIn,
    Rts2RtsQpIn,
};
use soft_hca::{Config, Live};

use crate::client::Client;

/// Bytes of the longest answer: a page of capabilities.
const OUT_BYTES: usize = 4112;
/// Objects kept at a time.
const MAX_OBJECTS: usize = 64;

/// An object that a command made.
struct Object {
    pointer: *mut ffi::mlx5dv_devx_obj,
    number: [u8; 3],
}

/// A device, and commands that it takes.
pub(crate) struct Commands {
    client: Client,
    templates: Vec<Vec<u8>>,
    before: Live,
}

impl Commands {
    pub(crate) fn new() -> Self {
        let mut client = Client::new(Config::default());
        let cq = client.cq(4, false);
        let (create_cq, _) = client.cq_command(3, false);
        let (create_qp, ..) = client.qp_command(cq.number, 3);
        let qp = client.qp(&cq, 4);
        let mut to_rtr = Init2RtrQpIn::new();
        let end = client.end(&qp, 0, Mtu::Bytes1024);
        client.fill_rtr(&mut to_rtr, &qp, &end);
        let mut cap = QueryHcaCapIn::new();
        cap.header
            .set_op_mod(CapType::General.op_mod(CapMode::Current));
        let templates = vec![
            bytes(&create_cq),
            bytes(&create_qp),
            bytes(&Rst2InitQpIn::new()),
            bytes(&Init2InitQpIn::new()),
            bytes(&to_rtr),
            bytes(&Rtr2RtsQpIn::new()),
            bytes(&Rts2RtsQpIn::new()),
            bytes(&Qp2RstIn::new()),
            bytes(&Qp2ErrIn::new()),
            bytes(&QueryQpIn::new()),
            bytes(&QueryCqIn::new()),
            bytes(&ModifyCqIn::new()),
            bytes(&DestroyQpIn::new()),
            bytes(&DestroyCqIn::new()),
            bytes(&cap),
            // Whatever the first two bytes make of it.
            vec![0; 512],
        ];
        let before = soft_hca::stats(&client.name).unwrap().live;
        Self {
            client,
            templates,
            before,
        }
    }

    /// Takes `bytes` as a list of commands: how it is called, which template it starts from, on
    /// which object, how many bytes are other ones, whether it is cut short; then the positions and
    /// values of those bytes.
    pub(crate) fn run(&mut self, mut bytes: &[u8]) {
        let mut objects = Vec::new();
        while let Some(([call, template, object, changes, cut], rest)) = bytes.split_first_chunk() {
            let count = usize::from(changes % 16);
            let (changes, rest) = rest.split_at(rest.len().min(3 * count));
            bytes = rest;
            let template = usize::from(*template) % self.templates.len();
            let mut mailbox = self.templates[template].clone();
            let chosen = objects.get(usize::from(*object) % objects.len().max(1));
            let pointer = chosen.map_or(std::ptr::null_mut(), |chosen: &Object| chosen.pointer);
            if let (Some(chosen), Some(number)) = (chosen, mailbox.get_mut(9..12)) {
                number.copy_from_slice(&chosen.number);
            }
            for [high, low, value] in changes.as_chunks().0 {
                let at = usize::from(u16::from_be_bytes([*high, *low])) % mailbox.len();
                mailbox[at] = *value;
            }
            if cut % 8 == 0 {
                mailbox.truncate(usize::from(*cut));
            }
            self.call(*call, pointer, &mailbox, &mut objects);
        }
        self.clean_up(objects);
    }

    fn call(
        &self,
        call: u8,
        pointer: *mut ffi::mlx5dv_devx_obj,
        input: &[u8],
        objects: &mut Vec<Object>,
    ) {
        let mut out = [0xaa; OUT_BYTES];
        // Answers are of many lengths; some are too short for theirs.
        let out_len = if call & 0x40 == 0 { OUT_BYTES } else { 16 };
        let (table, context) = (&self.client.table, self.client.context);
        let (from, to) = (input.as_ptr().cast(), out.as_mut_ptr().cast());
        // SAFETY: the context is open, both mailboxes are as long as said, and an object that is
        // not there is refused.
        unsafe {
            match call % 5 {
                0 => {
                    (table.mlx5dv_devx_general_cmd)(context, from, input.len(), to, out_len);
                }
                1 if objects.len() < MAX_OBJECTS => {
                    let pointer =
                        (table.mlx5dv_devx_obj_create)(context, from, input.len(), to, out_len);
                    if !pointer.is_null() {
                        let number = [out[9], out[10], out[11]];
                        objects.push(Object { pointer, number });
                    }
                }
                2 => {
                    (table.mlx5dv_devx_obj_modify)(pointer, from, input.len(), to, out_len);
                }
                3 => {
                    (table.mlx5dv_devx_obj_query)(pointer, from, input.len(), to, out_len);
                }
                _ => {
                    if self.client.destroy(pointer) == 0 {
                        objects.retain(|object| object.pointer != pointer);
                    }
                }
            }
        }
        assert!(out[out_len..].iter().all(|byte| *byte == 0xaa));
    }

    /// Whatever is left can be destroyed, those first that others do not use; then all is as it
    /// was, and the device still answers.
    fn clean_up(&self, mut objects: Vec<Object>) {
        while !objects.is_empty() {
            let before = objects.len();
            objects.retain(|object| self.client.destroy(object.pointer) != 0);
            assert!(objects.len() < before, "{before} objects stay");
        }
        let stats = soft_hca::stats(&self.client.name).unwrap();
        assert_eq!(stats.live, self.before);
        let mut out = [0; OUT_BYTES];
        let mut cap = QueryHcaCapIn::new();
        cap.header
            .set_op_mod(CapType::General.op_mod(CapMode::Current));
        assert_eq!(self.client.general(&cap, &mut out), 0);
    }
}

fn bytes<T: Layout>(layout: &T) -> Vec<u8> {
    layout.as_bytes().to_vec()
}
