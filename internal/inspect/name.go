package inspect

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/rawbtf"
)

// fullName is the name of a program: the kernel keeps 15 bytes, and BTF has all
// of it as the name of the first function.
func fullName(o *bpfsys.Open, info *bpfsys.ProgInfo) string {
	short := bpfsys.Text(info.Name[:])
	if len(short) < unix.BPF_OBJ_NAME_LEN-1 || info.BTFID == 0 || info.NrFuncInfo == 0 || info.FuncInfoRecSize < 8 {
		return short
	}
	// struct bpf_func_info begins with insn_off and type_id.
	rec := make([]byte, info.FuncInfoRecSize)
	again := bpfsys.ProgInfo{NrFuncInfo: 1, FuncInfoRecSize: info.FuncInfoRecSize, FuncInfo: bpfsys.PointerTo(rec)}
	if bpfsys.Info(o, &again) != nil {
		return short
	}
	if full := btfName(info.BTFID, binary.NativeEndian.Uint32(rec[4:])); full != "" {
		return full
	}
	return short
}

// btfName is the name of a type in a BTF object, "" where it cannot be read.
func btfName(id, typeID uint32) string {
	spec, err := rawbtf.FromKernel(id)
	if err != nil {
		return ""
	}
	if t := spec.Type(rawbtf.ID(typeID)); t != nil {
		return t.Name
	}
	return ""
}
