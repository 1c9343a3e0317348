package entries

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"l3af/internal/bpfsys"
	"l3af/internal/btftext"
	"l3af/internal/rawbtf"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Wrap(m).Run()) }

// load loads the maps of testdata, filled.
func load(t testing.TB) *ebpf.Collection {
	t.Helper()
	testenv.Clean(t)
	spec, err := ebpf.LoadCollectionSpec("testdata/maps.bpf.o")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	testenv.Collect(t, c)
	for _, name := range []string{"hash", "array", "lru", "percpu_array", "percpu_hash", "lru_percpu", "trie", "plain", "plain_percpu", "real"} {
		m := opened(t, c.Maps[name])
		for i := range 3 {
			key, value := filled(int(m.Info.KeySize), i), filled(m.Size(), i+1)
			switch name {
			case "array", "percpu_array":
				key = []byte{byte(i), 0, 0, 0}
			case "trie":
				key = []byte{24, 0, 0, 0, 10, 0, byte(i), 0}
			case "hash":
				if i == 1 { // names and texts
					copy(value[18:], []byte{5, 0, 0, 0, 0, 0, 0, 0})
					copy(value, make([]byte, len(value)))
					copy(value[50:], "text")
				}
			}
			if err := bpfsys.Update(m, key, value, 0); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	for name, fd := range map[string]int{"jumps": c.Programs["send"].FD(), "hashes": c.Maps["inner"].FD()} {
		if err := c.Maps[name].Put(uint32(1), uint32(fd)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if err := c.Maps["cpumap"].Put(uint32(0), uint32(192)); err != nil {
		t.Fatal(err)
	}
	if err := c.Maps["devmap"].Put(uint32(1), uint32(1)); err != nil { // lo
		t.Fatal(err)
	}
	return c
}

// filled is bytes that differ, the same each time.
func filled(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((i*7 + seed*31) * (seed + 1) % 251)
	}
	return b
}

func opened(t testing.TB, m *ebpf.Map) *Map {
	t.Helper()
	e, err := Open(m)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// dump is the entries of a map as JSON.
func dump(t testing.TB, m *Map) []byte {
	t.Helper()
	var w btftext.Writer
	w.BeginArray()
	err := m.Each(context.Background(), func(b Batch) error {
		for _, e := range b {
			m.JSON(&w, e)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v", m, err)
	}
	w.EndArray()
	return w.Buf
}

func text(t testing.TB, m *Map) string {
	t.Helper()
	if m.Typed() {
		w := btftext.Writer{Indent: 4}
		w.BeginArray()
		if err := m.Each(context.Background(), func(b Batch) error {
			for _, e := range b {
				m.TypedText(&w, e)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		w.EndArray()
		return string(w.Buf)
	}
	var b []byte
	if err := m.Each(context.Background(), func(batch Batch) error {
		for _, e := range batch {
			b = m.AppendText(b, e)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func bpftool(t testing.TB, args ...string) []byte {
	t.Helper()
	exe, err := exec.LookPath("bpftool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	out, err := exec.Command(exe, args...).Output()
	if err != nil {
		t.Fatalf("bpftool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// ours are the members that old versions of bpftool do not have.
var ours = []string{"sum", "inner_map_id"}

func normal(t *testing.T, data []byte, without ...string) []any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var list []any
	if err := d.Decode(&list); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, data)
	}
	for _, e := range list {
		for _, name := range without {
			delete(e.(map[string]any), name)
		}
	}
	return list
}

// What bpftool says of the entries of every map, we say.
func TestAsBpftool(t *testing.T) {
	c := load(t)
	kinds := map[string]bool{}
	for name, raw := range c.Maps {
		m := opened(t, raw)
		if m.listed() != nil || name == "real" {
			continue
		}
		kinds[m.Type().String()] = true
		got, want := dump(t, m), bpftool(t, "-j", "map", "dump", "id", fmt.Sprint(m.Info.ID))
		if g, w := normal(t, got, ours...), normal(t, want); !reflect.DeepEqual(g, w) {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, want)
		}
		if m.CPUs > 0 || m.OfMaps() {
			continue
		}
		plain := string(bpftool(t, "map", "dump", "id", fmt.Sprint(m.Info.ID)))
		plain, _, _ = strings.Cut(plain, "Found ")
		// Version 7.1 writes pointers without quotes.
		if got := text(t, m); strings.ReplaceAll(strings.TrimSpace(got), `"`, "") != strings.ReplaceAll(strings.TrimSpace(plain), `"`, "") {
			t.Errorf("%s:\ngot\n%s\nwant\n%s", name, got, plain)
		}
	}
	if len(kinds) < 14 {
		t.Errorf("only %d types were looked at: %v", len(kinds), kinds)
	}
}

// Floats and BTF CHAR, of which bpftool makes what is no JSON.
func TestBetterThanBpftool(t *testing.T) {
	c := load(t)
	m := opened(t, c.Maps["real"])
	for key, value := range map[uint32][]byte{
		7: {0, 0, 0xc0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0x7f, 9, 0, 0, 0, 0, 0, 0, 0},
	} {
		if err := bpfsys.Update(m, []byte{byte(key), 0, 0, 0}, value, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := string(dump(t, m)), `{"key":7,"value":{"f":1.5,"d":"inf","n":9}}`; !json.Valid([]byte(got)) || !strings.Contains(got, want) {
		t.Errorf("got %s, want %s in it", got, want)
	}

	char := &btf.Int{Name: "c", Size: 1, Encoding: btf.Char}
	raw, err := ebpf.NewMap(&ebpf.MapSpec{Name: "chars", Type: ebpf.Hash, KeySize: 4, ValueSize: 12, MaxEntries: 4,
		Key: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed},
		Value: &btf.Struct{Name: "s", Size: 12, Members: []btf.Member{
			{Name: "quote", Type: char}, {Name: "high", Type: char, Offset: 8}, {Name: "low", Type: char, Offset: 16},
			{Name: "wide", Offset: 32, Type: &btf.Enum{Name: "wide", Size: 8, Values: []btf.EnumValue{{Name: "FAR", Value: 1 << 40}}}},
		}}})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	m = opened(t, raw)
	if err := bpfsys.Update(m, []byte{1, 0, 0, 0}, []byte{'"', 0xe9, 7, 0, 0, 0, 0, 0, 0, 1, 0, 0}, 0); err != nil {
		t.Fatal(err)
	}
	if got, want := string(dump(t, m)), `"formatted":{"key":1,"value":{"quote":"\"","high":"\u00e9","low":"\u0007","wide":"FAR"}}`; !strings.Contains(got, want) {
		t.Errorf("got %s, want %s in it", got, want)
	}
}

// Of maps whose entries cannot be listed, it says why, where bpftool prints an empty list.
func TestNotListed(t *testing.T) {
	c := load(t)
	for _, name := range []string{"queue", "stack", "bloom", "ring"} {
		m := opened(t, c.Maps[name])
		err := m.Each(context.Background(), func(Batch) error { return errors.New("an entry") })
		if !errors.Is(err, ErrNotListed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Entries whose types make no sense are printed in hex.
func TestUntyped(t *testing.T) {
	c := load(t)
	m := opened(t, c.Maps["hash"])
	spec, err := rawbtf.FromKernel(m.Info.BTFID)
	if err != nil {
		t.Fatal(err)
	}
	m.Info.BTFValueTypeID = uint32(spec.End())
	if m.Untyped = m.types(); m.Untyped == nil || m.Typed() {
		t.Errorf("type %d of %d: %v", spec.End(), spec.End(), m.Untyped)
	}
	if got := dump(t, m); bytes.Contains(got, []byte("formatted")) || !json.Valid(got) {
		t.Errorf("got %s", got)
	}
	if _, err := m.People(); err != nil {
		t.Error(err)
	}
}

// The sum over CPUs has the numbers and nothing else.
func TestSum(t *testing.T) {
	c := load(t)
	m := opened(t, c.Maps["percpu_hash"])
	if err := bpfsys.Update(m, make([]byte, 8), m.Spread([]byte{0, 0, 0, 0x80}), 0); err != nil {
		t.Fatal(err)
	}
	var entries []struct {
		Sum       json.Number
		Formatted struct{ Key struct{ IP int } }
	}
	if err := json.Unmarshal(dump(t, m), &entries); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint(uint64(m.CPUs) << 31)
	if !slices.ContainsFunc(entries, func(e struct {
		Sum       json.Number
		Formatted struct{ Key struct{ IP int } }
	}) bool {
		return e.Formatted.Key.IP == 0 && e.Sum.String() == want
	}) {
		t.Errorf("no sum of %s in %+v", want, entries)
	}
	got := dump(t, opened(t, c.Maps["percpu_array"]))
	for _, part := range []string{`"sum":{"packets":`, `"f3":`, `"grid":[[`, `"":{"q":`} {
		if !bytes.Contains(got, []byte(part)) {
			t.Errorf("no %s in %s", part, got)
		}
	}
	if _, sum, _ := bytes.Cut(got, []byte(`"sum"`)); bytes.Contains(sum[:bytes.IndexByte(sum, '}')], []byte(`"ptr"`)) {
		t.Errorf("pointers were added: %s", sum)
	}
}

// A large map is read whole while others change it, in pieces, and hash
// buckets that are larger than a piece are no trouble.
func TestConcurrentChange(t *testing.T) {
	testenv.Clean(t)
	const n = 30_000
	raw, err := ebpf.NewMap(&ebpf.MapSpec{Name: "busy", Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 2 * n})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for i := range uint32(n) {
		if err := raw.Put(i, uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := uint32(0); !stop.Load(); i++ {
			_ = raw.Put(n+i%n, uint64(0))
			_ = raw.Delete(n + (i+n/2)%n)
		}
	}()
	m := opened(t, raw)
	for range 3 {
		seen := map[uint32]int{}
		if err := m.Each(context.Background(), func(b Batch) error {
			for _, e := range b {
				seen[uint32(e.Key[0])|uint32(e.Key[1])<<8|uint32(e.Key[2])<<16]++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for i := range uint32(n) {
			if seen[i] != 1 {
				t.Fatalf("entry %d was seen %d times", i, seen[i])
			}
		}
	}
	stop.Store(true)
	<-done
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Each(ctx, func(Batch) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// What people write of keys and values comes back.
func TestPeople(t *testing.T) {
	c := load(t)
	for _, x := range []struct{ name, key, value string }{
		{"trie", "10.1.0.0/16", "drop"},
		{"hash", "{ip: 167772161, port: 80}", "{packets: 5, comm: eth0, act: ACT_DROP, f3: -1}"},
		{"plain", "02:00:00:00:00:01", `"0x0102030405060708090a0b0c0d0e0f1011121314"`},
	} {
		m := opened(t, c.Maps[x.name])
		p, err := m.People()
		if err != nil {
			t.Fatal(err)
		}
		key, err := p.Key(x.key)
		if err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		value, err := p.Value(x.value)
		if err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		if err := bpfsys.Update(m, key, m.Spread(value), 0); err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		read := make([]byte, m.Size())
		if err := bpfsys.Lookup(m, key, read); err != nil || !bytes.Equal(read, value) {
			t.Errorf("%s: read %x, %v, want %x", x.name, read, err, value)
		}
		e, err := p.Entry(Entry{Key: key, Value: read})
		if err != nil {
			t.Fatal(err)
		}
		if x.name == "trie" && (e.Key != "10.1.0.0/16" || e.Value != "ACT_DROP") {
			t.Errorf("%s: %+v", x.name, e)
		}
	}
	p, err := opened(t, c.Maps["hash"]).People()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Value("{packet: 5}"); err == nil || !strings.Contains(err.Error(), "packets") {
		t.Errorf("a member that is not there: %v", err)
	}
}

func TestText(t *testing.T) {
	for err, want := range map[error]string{
		unix.ENOENT:       "No such file or directory",
		unix.Errno(524):   "Unknown error 524",
		unix.EPERM:        "Operation not permitted",
		errors.New("odd"): "odd",
	} {
		if got := Text(fmt.Errorf("%w", err)); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}
