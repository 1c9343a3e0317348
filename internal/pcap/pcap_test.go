package pcap

import (
	"bytes"
	"encoding/binary"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

var sample = []Packet{
	{Time: time.Unix(1700000000, 123456789).UTC(), Data: []byte("fourteen bytes and more"), Length: 23},
	{Time: time.Unix(4000000000, 1).UTC(), Data: []byte("cut off"), Length: 1500},
	{Time: time.Unix(0, 0).UTC(), Data: []byte{}, Length: 0},
}

func readAll(r io.Reader) (all []Packet, err error) {
	in, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	for {
		p, err := in.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, p)
	}
}

func writeAll(w io.Writer, packets []Packet) error {
	out, err := NewWriter(w)
	if err != nil {
		return err
	}
	for _, p := range packets {
		if err := out.Write(p); err != nil {
			return err
		}
	}
	return out.Flush()
}

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	if err := writeAll(&b, sample); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(bytes.NewReader(b.Bytes()))
	if err != nil || !reflect.DeepEqual(got, sample) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, sample)
	}
	// A file that ends anywhere is an error or has fewer packets.
	for n := range b.Len() {
		got, err := readAll(bytes.NewReader(b.Bytes()[:n]))
		if whole := n == 24 || n == 24+16+23 || n == 24+16+23+16+7; (err == nil) != whole {
			t.Errorf("%d bytes: %d packets, %v", n, len(got), err)
		}
	}
}

func block(order binary.ByteOrder, kind uint32, body []byte) []byte {
	for len(body)%4 != 0 {
		body = append(body, 0)
	}
	b := binary.BigEndian.AppendUint32(nil, kind)
	order.PutUint32(b, kind)
	size := make([]byte, 4)
	order.PutUint32(size, uint32(len(body)+12))
	return append(append(append(b, size...), body...), size...)
}

func words(order binary.ByteOrder, list ...uint32) []byte {
	b := make([]byte, 4*len(list))
	for i, w := range list {
		order.PutUint32(b[4*i:], w)
	}
	return b
}

func half(order binary.ByteOrder, list ...uint16) []byte {
	b := make([]byte, 2*len(list))
	for i, w := range list {
		order.PutUint16(b[2*i:], w)
	}
	return b
}

// ng makes a pcapng file with two interfaces, of microseconds and of
// nanoseconds, and a packet of each kind.
func ng(order binary.ByteOrder, link uint16) []byte {
	const when = 1700000000
	micro, nano := uint64(when*1e6+5), uint64(when*1e9+7)
	file := block(order, sectionHeader, append(words(order, byteOrder), append(half(order, 1, 0), words(order, 0xffffffff, 0xffffffff)...)...))
	file = append(file, block(order, blockInterface, append(half(order, link, 0), words(order, 0)...))...)
	option := append(half(order, 9, 1), 9, 0, 0, 0)
	file = append(file, block(order, blockInterface, append(append(half(order, link, 0), words(order, 65535)...), append(option, 0, 0, 0, 0)...))...)
	file = append(file, block(order, 0x0bad, []byte("what nobody knows"))...)
	file = append(file, block(order, blockPacket, append(words(order, 0, uint32(micro>>32), uint32(micro), 5, 60), "hello"...))...)
	file = append(file, block(order, blockPacket, append(words(order, 1, uint32(nano>>32), uint32(nano), 3, 3), "you"...))...)
	file = append(file, block(order, blockSimple, append(words(order, 4), "bare"...))...)
	return append(file, block(order, blockOldPacket, append(append(half(order, 1, 0), words(order, uint32(nano>>32), uint32(nano), 3, 3)...), "old"...))...)
}

func TestNG(t *testing.T) {
	at := func(n int64) time.Time { return time.Unix(1700000000, n).UTC() }
	want := []Packet{
		{at(5000), []byte("hello"), 60}, {at(7), []byte("you"), 3}, {time.Time{}, []byte("bare"), 4}, {at(7), []byte("old"), 3},
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		got, err := readAll(bytes.NewReader(append(ng(order, Ethernet), ng(order, Ethernet)...)))
		if twice := append(want[:4:4], want...); err != nil || !reflect.DeepEqual(got, twice) {
			t.Errorf("%v: got %+v, %v\nwant %+v", order, got, err, twice)
		}
	}
}

func TestRefused(t *testing.T) {
	classic := func(link, size uint32) string {
		return string(words(binary.LittleEndian, magicMicro, 4<<16|2, 0, 0, 65535, link, 1, 2, size, size)) + strings.Repeat("x", 20)
	}
	le := binary.LittleEndian
	for name, c := range map[string]struct{ file, want string }{
		"empty":         {"", "too short"},
		"text":          {"this is text", "neither a pcap nor a pcapng"},
		"link type":     {classic(101, 20), "link type 101 is not Ethernet"},
		"huge":          {classic(1, 1<<31), "packet 1: 2147483648 bytes"},
		"cut":           {classic(1, 21), "packet 1: the file is cut off"},
		"ng link type":  {string(ng(le, 101)), "link type 101"},
		"ng cut":        {string(ng(le, 1)[:30]), "cut off"},
		"ng order":      {string(block(le, sectionHeader, words(le, 1, 2, 3, 4))), "byte order"},
		"ng lengths":    {string(ng(le, 1)[:24]) + "\x1c\x00\x00\x01", "lengths"},
		"ng interface":  {string(block(le, sectionHeader, words(le, byteOrder, 1, 0, 0))) + string(block(le, blockPacket, words(le, 0, 0, 0, 0, 0))), "interface 0"},
		"ng no device":  {string(block(le, sectionHeader, words(le, byteOrder, 1, 0, 0))) + string(block(le, blockSimple, words(le, 4, 4))), "before any interface"},
		"ng short head": {string(block(le, sectionHeader, words(le, byteOrder, 1, 0, 0))) + string(block(le, blockPacket, nil)), "too short"},
	} {
		if got, err := readAll(strings.NewReader(c.file)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %+v, %v, want an error with %q", name, got, err, c.want)
		}
	}
	if err := writeAll(io.Discard, []Packet{{Data: make([]byte, maxPacket+1)}}); err == nil {
		t.Error("a packet that is too long was written")
	}
}

// Whatever the file, there is an error or packets that can be written and
// read again.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := writeAll(&b, sample); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(ng(binary.LittleEndian, Ethernet))
	f.Add(ng(binary.BigEndian, Ethernet))
	f.Fuzz(func(t *testing.T, file []byte) {
		packets, err := readAll(bytes.NewReader(file))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := writeAll(&b, packets); err != nil {
			t.Fatal(err)
		}
		again, err := readAll(&b)
		if err != nil || len(again) != len(packets) {
			t.Fatalf("%d packets became %d: %v", len(packets), len(again), err)
		}
		for i, p := range packets {
			if !bytes.Equal(p.Data, again[i].Data) || p.Length != again[i].Length {
				t.Fatalf("packet %d: %+v became %+v", i, p, again[i])
			}
		}
	})
}
