package disasm

import (
	"bytes"
	"encoding/binary"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"l3af/internal/testenv"
)

// verifierLine is an instruction in the verifier's log, which goes on with what
// it knows of registers.
var verifierLine = regexp.MustCompile(`(?m)^(\d+): (\([0-9a-f]{2}\) .*?)(?:\s*;.*)?$`)

// The verifier writes the same text in its log: of every instruction it takes,
// those of the newest instruction set included.
func TestVerifierSaysTheSame(t *testing.T) {
	testenv.Clean(t)
	for _, v := range []struct {
		name string
		code [][]byte
	}{
		{"first", [][]byte{
			raw(0xb7, 0, 0, 0, 7), raw(0xbf, 2, 0, 0, 0), raw(0xbc, 3, 0, 0, 0), raw(0xb4, 4, 0, 0, -3),
			raw(0x07, 2, 0, 0, -8), raw(0x17, 2, 0, 0, 8), raw(0x27, 2, 0, 0, 3), raw(0x37, 2, 0, 0, 3), raw(0x47, 2, 0, 0, 3), raw(0x57, 2, 0, 0, 255),
			raw(0x67, 2, 0, 0, 3), raw(0x77, 2, 0, 0, 3), raw(0x87, 2, 0, 0, 0), raw(0x97, 2, 0, 0, 3), raw(0xa7, 2, 0, 0, 3), raw(0xc7, 2, 0, 0, 3),
			raw(0x0f, 2, 0, 0, 0), raw(0x1c, 2, 0, 0, 0), raw(0x2c, 2, 0, 0, 0), raw(0x3f, 2, 0, 0, 0), raw(0x9c, 2, 0, 0, 0), raw(0x84, 2, 0, 0, 0),
			raw(0xdc, 2, 0, 0, 16), raw(0xd4, 2, 0, 0, 32), raw(0xdc, 2, 0, 0, 64),
			raw(0x7b, 10, 0, -8, 0), raw(0x63, 10, 0, -16, 0), raw(0x6b, 10, 0, -12, 0), raw(0x73, 10, 0, -10, 0), raw(0x7a, 10, 0, -24, 77), raw(0x72, 10, 0, -25, 1),
			raw(0x79, 4, 10, -8, 0), raw(0x61, 4, 10, -16, 0), raw(0x69, 4, 10, -12, 0), raw(0x71, 4, 10, -10, 0),
			raw(0xdb, 10, 0, -8, 0x00), raw(0xdb, 10, 4, -8, 0x01), raw(0xdb, 10, 4, -8, 0x41), raw(0xdb, 10, 4, -8, 0x51), raw(0xdb, 10, 4, -8, 0xa0),
			raw(0xdb, 10, 4, -8, 0xe1), raw(0xdb, 10, 4, -8, 0xf1), raw(0xc3, 10, 4, -16, 0xa1),
			wide(5, 0, 2, 1), raw(0x85, 0, 0, 0, 5), // bpf_ktime_get_ns
			raw(0x15, 0, 0, 1, 3), raw(0x55, 0, 0, 0, -1), raw(0x66, 0, 0, 0, 9), raw(0xa6, 0, 0, 0, 9), raw(0xbd, 0, 0, 0, 0), raw(0x4d, 0, 0, 0, 0), raw(0xde, 0, 0, 0, 0),
			raw(0x05, 0, 0, 0, 0), raw(0xb7, 0, 0, 0, 2), raw(0x95, 0, 0, 0, 0),
		}},
		{"fourth", [][]byte{ // -mcpu=v4, Linux 6.6
			raw(0x85, 0, 0, 0, 7), // bpf_get_prandom_u32
			raw(0xbf, 2, 0, 8, 0), raw(0xbf, 2, 0, 16, 0), raw(0xbf, 2, 0, 32, 0), raw(0xbc, 2, 0, 8, 0),
			raw(0xd7, 2, 0, 0, 16), raw(0xd7, 2, 0, 0, 64), raw(0x37, 2, 0, 1, 3), raw(0x97, 2, 0, 1, 3), raw(0x3c, 2, 0, 1, 0), raw(0x9f, 2, 0, 1, 0),
			raw(0x7b, 10, 0, -8, 0), raw(0x91, 3, 10, -8, 0), raw(0x89, 3, 10, -8, 0), raw(0x81, 3, 10, -8, 0),
			raw(0x06, 0, 0, 0, 0), raw(0xb7, 0, 0, 0, 2), raw(0x95, 0, 0, 0, 0),
		}},
		{"loops", [][]byte{ // Linux 6.9
			raw(0xb7, 0, 0, 0, 2), raw(0xe5, 0, 0, 1, 0), raw(0x05, 0, 0, -2, 0), raw(0x95, 0, 0, 0, 0),
		}},
		{"ordered", [][]byte{ // Linux 6.15
			raw(0xb7, 0, 0, 0, 2), raw(0x7b, 10, 0, -8, 0), raw(0xdb, 1, 10, -8, 0x100), raw(0xdb, 10, 0, -8, 0x110),
			raw(0xc3, 2, 10, -8, 0x100), raw(0xd3, 10, 0, -8, 0x110), raw(0x95, 0, 0, 0, 0),
		}},
	} {
		t.Run(v.name, func(t *testing.T) {
			code := slices.Concat(v.code...)
			var order binary.ByteOrder = binary.LittleEndian
			if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
				order = binary.BigEndian
			}
			ins, err := asm.AppendInstructions(nil, bytes.NewReader(code), order, "linux")
			if err != nil {
				t.Fatal(err)
			}
			p, err := ebpf.NewProgramWithOptions(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: ins}, ebpf.ProgramOptions{LogLevel: ebpf.LogLevelInstruction})
			if err != nil {
				t.Fatalf("%+v", err)
			}
			defer p.Close()
			said := map[int]string{}
			for _, m := range verifierLine.FindAllStringSubmatch(p.VerifierLog, -1) {
				at, _ := strconv.Atoi(m[1])
				said[at] = m[2]
			}
			for _, i := range Split(code) {
				if got := (Names{}).Text(i); said[i.Offset] != got && said[i.Offset] != "" {
					t.Errorf("%d: got %q, the verifier says %q", i.Offset, got, said[i.Offset])
				}
			}
			if len(said) < len(v.code)-2 { // some are never reached
				t.Errorf("the verifier tells %d of %d instructions", len(said), len(v.code))
			}
		})
	}
}
