package inspect

import (
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
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

// btfName is the name of a type, "" where it cannot be read.
func btfName(id, typeID uint32) string {
	raw, err := rawBTF(id)
	if err != nil {
		return ""
	}
	return typeName(raw, typeID)
}

// rawBTF is all of a BTF object.
func rawBTF(id uint32) ([]byte, error) {
	o, err := bpfsys.ByID(bpfsys.BTF, id, 0)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	var info bpfsys.BTFInfo
	if err := bpfsys.Info(o, &info); err != nil {
		return nil, err
	}
	raw := make([]byte, info.Size)
	again := bpfsys.BTFInfo{BTF: bpfsys.PointerTo(raw), Size: info.Size}
	return raw, bpfsys.Info(o, &again)
}

// The kinds of BTF that have something behind the 12 bytes of their type, with
// the bytes per member and those before all members.
var btfTails = [...]struct{ each, once uint32 }{
	1:  {0, 4},  // INT
	3:  {0, 12}, // ARRAY
	4:  {12, 0}, // STRUCT
	5:  {12, 0}, // UNION
	6:  {8, 0},  // ENUM
	13: {8, 0},  // FUNC_PROTO
	14: {0, 4},  // VAR
	15: {12, 0}, // DATASEC
	17: {0, 4},  // DECL_TAG
	19: {12, 0}, // ENUM64
}

// typeName finds the name of one type in BTF of the machine's byte order
// without reading more of it than the types before (linux/btf.h).
func typeName(raw []byte, id uint32) string {
	const header = 24
	u32 := func(at uint64) (uint32, bool) {
		if at > math.MaxUint32 || at+4 > uint64(len(raw)) {
			return 0, false
		}
		return binary.NativeEndian.Uint32(raw[at:]), true
	}
	if len(raw) < header || binary.NativeEndian.Uint16(raw) != 0xeb9f {
		return ""
	}
	headerLen, _ := u32(4)
	typeOff, _ := u32(8)
	typeLen, _ := u32(12)
	strOff, _ := u32(16)
	at := uint64(headerLen) + uint64(typeOff)
	end := at + uint64(typeLen)
	for n := uint32(1); at+12 <= end; n++ {
		name, _ := u32(at)
		what, ok := u32(at + 4)
		if !ok {
			return ""
		}
		if n == id {
			s := uint64(headerLen) + uint64(strOff) + uint64(name)
			if s >= uint64(len(raw)) {
				return ""
			}
			return bpfsys.Text(raw[s:])
		}
		kind, members := what>>24&0x1f, uint64(what&0xffff)
		at += 12
		if int(kind) < len(btfTails) {
			at += members*uint64(btfTails[kind].each) + uint64(btfTails[kind].once)
		}
	}
	return ""
}
