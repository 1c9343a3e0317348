package inspect

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/kallsyms"
)

// TracepointLink is at a tracepoint.
type TracepointLink struct {
	Tracepoint string `json:"tracepoint"`
	Cookie     uint64 `json:"cookie"`
}

// KprobeLink is at a function of the kernel.
type KprobeLink struct {
	Retprobe bool   `json:"retprobe"`
	Addr     uint64 `json:"addr"`
	Func     string `json:"func"`
	Offset   uint32 `json:"offset"`
	Missed   uint64 `json:"missed"`
	Cookie   uint64 `json:"cookie"`
}

// UprobeLink is at a place of an executable or library.
type UprobeLink struct {
	Retprobe     bool   `json:"retprobe"`
	File         string `json:"file"`
	Offset       uint32 `json:"offset"`
	Cookie       uint64 `json:"cookie"`
	RefCtrOffset uint64 `json:"ref_ctr_offset"`
}

// EventLink is at a counter of perf.
type EventLink struct {
	EventType   TypeName `json:"event_type"`
	EventConfig TypeName `json:"event_config"`
	Cookie      uint64   `json:"cookie"`
}

// KprobeMultiLink is at many functions of the kernel.
type KprobeMultiLink struct {
	Retprobe bool          `json:"retprobe"`
	FuncCnt  uint32        `json:"func_cnt"`
	Missed   uint64        `json:"missed"`
	Funcs    []KprobeOfAll `json:"funcs"`
}

// KprobeOfAll is one of the functions of a KprobeMultiLink.
type KprobeOfAll struct {
	Addr   uint64  `json:"addr"`
	Func   string  `json:"func"`
	Module *string `json:"module"` // nil: the kernel itself
	Cookie uint64  `json:"cookie"`
}

// UprobeMultiLink is at many places of an executable or library.
type UprobeMultiLink struct {
	Retprobe bool          `json:"retprobe"`
	Path     string        `json:"path"`
	FuncCnt  uint32        `json:"func_cnt"`
	PID      int32         `json:"pid"` // 0: all processes
	Funcs    []UprobeOfAll `json:"funcs"`
}

// UprobeOfAll is one of the places of a UprobeMultiLink.
type UprobeOfAll struct {
	Offset       uint64 `json:"offset"`
	RefCtrOffset uint64 `json:"ref_ctr_offset"`
	Cookie       uint64 `json:"cookie"`
}

// union is the part of struct bpf_link_info that depends on the type; offsets
// are those in it.
type union struct{ of *[12]uint64 }

func (u union) at(offset int) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(u.of), offset) }

func (u union) u32(offset int) uint32 { return *(*uint32)(u.at(offset)) }

func (u union) u64(offset int) uint64 { return *(*uint64)(u.at(offset)) }

// text asks again for a text of the link: where the pointer and the length of
// the buffer for it are.
func (u union) text(o *bpfsys.Open, info *bpfsys.LinkInfo, pointer, length int) (string, error) {
	buf := make([]byte, unix.PathMax)
	*(*bpfsys.Pointer)(u.at(pointer)) = bpfsys.PointerTo(buf)
	*(*uint32)(u.at(length)) = uint32(len(buf))
	err := bpfsys.Info(o, info)
	runtime.KeepAlive(buf)
	return bpfsys.Text(buf), err
}

// Values of enum bpf_perf_event_type.
const (
	eventUprobe = iota + 1
	eventUretprobe
	eventKprobe
	eventKretprobe
	eventTracepoint
	eventOther
)

// newPerfLink reads what is at an event of perf, and where its cookie is; nil of
// events that are not known.
func newPerfLink(o *bpfsys.Open, info *bpfsys.LinkInfo) (of any, cookie *uint64, err error) {
	u := union{&info.Of}
	kind := u.u32(0)
	if kind == eventOther {
		t, config := eventName(u.u32(16), u.u64(8))
		l := &EventLink{t, config, u.u64(24)}
		return l, &l.Cookie, nil
	}
	if kind == 0 || kind > eventOther {
		return nil, nil, nil
	}
	name, err := u.text(o, info, 8, 16)
	if err != nil {
		return nil, nil, err
	}
	switch kind {
	case eventUprobe, eventUretprobe:
		l := &UprobeLink{kind == eventUretprobe, name, u.u32(20), u.u64(24), u.u64(32)}
		return l, &l.Cookie, nil
	case eventKprobe, eventKretprobe:
		l := &KprobeLink{kind == eventKretprobe, u.u64(24), name, u.u32(20), u.u64(32), u.u64(40)}
		return l, &l.Cookie, nil
	}
	l := &TracepointLink{name, u.u64(24)}
	return l, &l.Cookie, nil
}

// flagReturn is BPF_F_KPROBE_MULTI_RETURN and BPF_F_UPROBE_MULTI_RETURN.
const flagReturn = 1

func newKprobeMultiLink(o *bpfsys.Open, info *bpfsys.LinkInfo) (any, error) {
	u := union{&info.Of}
	n := u.u32(8)
	l := &KprobeMultiLink{Retprobe: u.u32(12)&flagReturn != 0, FuncCnt: n, Missed: u.u64(16), Funcs: []KprobeOfAll{}}
	if n == 0 {
		return l, nil
	}
	addrs, cookies := make([]uint64, n), make([]uint64, n)
	*(*bpfsys.Pointer)(u.at(0)) = bpfsys.PointerTo(addrs)
	*(*bpfsys.Pointer)(u.at(24)) = bpfsys.PointerTo(cookies)
	err := bpfsys.Info(o, info)
	runtime.KeepAlive(addrs)
	runtime.KeepAlive(cookies)
	if err != nil {
		return nil, err
	}
	symbols, _ := kallsyms.Read() // without it they have no names
	for i, a := range addrs {
		f := KprobeOfAll{Addr: a, Cookie: cookies[i]}
		s := probed(symbols, a)
		if f.Func = s.Name; s.Module != "" {
			f.Module = &s.Module
		}
		l.Funcs = append(l.Funcs, f)
	}
	return l, nil
}

func newUprobeMultiLink(o *bpfsys.Open, info *bpfsys.LinkInfo) (any, error) {
	u := union{&info.Of}
	n := u.u32(36)
	l := &UprobeMultiLink{Retprobe: u.u32(40)&flagReturn != 0, FuncCnt: n, PID: int32(u.u32(44)), Funcs: []UprobeOfAll{}}
	arrays := [3][]uint64{make([]uint64, n), make([]uint64, n), make([]uint64, n)}
	for i, a := range arrays {
		*(*bpfsys.Pointer)(u.at(8 * (1 + i))) = bpfsys.PointerTo(a)
	}
	path, err := u.text(o, info, 0, 32)
	runtime.KeepAlive(arrays)
	if err != nil {
		return nil, err
	}
	l.Path = path
	for i := range n {
		l.Funcs = append(l.Funcs, UprobeOfAll{arrays[0][i], arrays[1][i], arrays[2][i]})
	}
	return l, nil
}

// eventName names an event of perf_event_open(2) as perf does.
func eventName(kind uint32, config uint64) (t, c TypeName) {
	t = names{"hardware", "software", "tracepoint", "hw-cache", "raw", "breakpoint"}.of(kind)
	of := func(ns names, n uint64) TypeName {
		if n < uint64(len(ns)) {
			return TypeName(ns[n])
		}
		return TypeName(fmt.Sprint(n))
	}
	switch kind {
	case unix.PERF_TYPE_HARDWARE:
		return t, of(names{"cpu-cycles", "instructions", "cache-references", "cache-misses", "branch-instructions", "branch-misses",
			"bus-cycles", "stalled-cycles-frontend", "stalled-cycles-backend", "ref-cycles"}, config)
	case unix.PERF_TYPE_SOFTWARE:
		return t, of(names{"cpu-clock", "task-clock", "page-faults", "context-switches", "cpu-migrations", "minor-faults", "major-faults",
			"alignment-faults", "emulation-faults", "dummy", "bpf-output", "cgroup-switches"}, config)
	case unix.PERF_TYPE_HW_CACHE:
		return t, of(names{"L1-dcache", "L1-icache", "LLC", "dTLB", "iTLB", "branch", "node"}, config&0xff) + "-" +
			of(names{"load", "store", "prefetch"}, config>>8&0xff) + "-" + of(names{"refs", "misses"}, config>>16)
	}
	return t, of(nil, config)
}
