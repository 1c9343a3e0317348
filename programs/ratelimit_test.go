package programs

import (
	"fmt"
	"math/big"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"l3af/internal/packet"
)

type limit struct{ Rate, Burst uint32 }

// passes are the codes that let a packet on, by entry.
var passes = map[string]int32{"ratelimit": 2, "ratelimit_ingress": tcUnspec, "ratelimit_egress": tcUnspec}

func monotonic(t testing.TB) uint64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return uint64(ts.Nano())
}

// Whose packets share a bucket, and what has none.
func TestRatelimitBuckets(t *testing.T) {
	src4 := func(s string) []byte { return packet.UDP(ap(s+":1"), ap("192.0.2.1:2"), nil) }
	src6 := func(s string) []byte { return packet.TCP(ap("["+s+"]:1"), ap("[fd00::2]:2"), 0, nil) }
	tagged := packet.Extensions(packet.Extension{Type: packet.HopByHop})
	type row struct {
		frame []byte
		want  bool
	}
	for _, test := range []struct {
		name    string
		globals map[string]any
		limits  map[netip.Prefix]limit
		rows    []row
	}{
		{"sources", map[string]any{}, nil, []row{
			{src4("10.0.0.1"), true}, {src4("10.0.0.1"), true}, {src4("10.0.0.1"), false},
			{packet.UDP(ap("10.0.0.1:9"), ap("192.0.2.9:9"), nil, packet.VLAN(5, 6)), false},
			{src4("10.0.0.2"), true},
			{src6("fd00::1"), true}, {src6("fd00::2"), true}, {src6("fd00::3"), false}, {src6("fd00:0:0:1::1"), true},
			{packet.TCP(ap("[fd00::4]:1"), ap("[fd00::2]:2"), 0, nil, tagged), false},
			{packet.ARP(addr("10.0.0.1"), addr("10.0.0.2")), true},
			{src4("10.0.0.1")[:33], true}, // addresses that cannot be read
			{src4("10.0.0.1")[:34], false},
		}},
		{"prefixes", map[string]any{"ipv4_prefixlen": uint32(20), "ipv6_prefixlen": uint32(128)}, nil, []row{
			{src4("10.0.0.1"), true}, {src4("10.0.15.255"), true}, {src4("10.0.7.1"), false}, {src4("10.0.16.0"), true},
			{src6("fd00::1"), true}, {src6("fd00::1"), true}, {src6("fd00::1"), false}, {src6("fd00::2"), true},
		}},
		{"one bucket for each family", map[string]any{"ipv4_prefixlen": uint32(0), "ipv6_prefixlen": uint32(0)}, nil, []row{
			{src4("10.0.0.1"), true}, {src4("20.0.0.1"), true}, {src4("30.0.0.1"), false},
			{src6("fd00::1"), true}, {src6("2001::1"), true}, {src6("::2"), false},
		}},
		{"destinations", map[string]any{"by": uint32(1)}, nil, []row{
			{src4("10.0.0.1"), true}, {src4("10.0.0.2"), true}, {src4("10.0.0.3"), false},
		}},
		{"no limit", map[string]any{"rate": uint32(0), "burst": uint32(1)}, nil, []row{
			{src4("10.0.0.1"), true}, {src4("10.0.0.1"), true}, {src4("10.0.0.1"), true},
		}},
		{"burst as rate", map[string]any{"rate": uint32(1), "burst": uint32(0)}, nil, []row{
			{src4("10.0.0.1"), true}, {src4("10.0.0.1"), false},
		}},
		{"limits", map[string]any{"burst": uint32(1)}, map[netip.Prefix]limit{
			pfx("10.0.0.0/8"): {1, 3}, pfx("10.1.0.0/16"): {0, 0}, pfx("fd00::/8"): {1, 2},
		}, []row{
			{src4("10.0.0.1"), true}, {src4("10.0.0.1"), true}, {src4("10.0.0.1"), true}, {src4("10.0.0.1"), false},
			{src4("10.1.0.1"), true}, {src4("10.1.0.1"), true}, {src4("10.1.0.1"), true}, {src4("10.1.0.1"), true},
			{src4("11.0.0.1"), true}, {src4("11.0.0.1"), false},
			{src6("fd00::1"), true}, {src6("fd00::1"), true}, {src6("fd00::1"), false},
		}},
	} {
		for entry, code := range passes {
			t.Run(test.name+"/"+entry, func(t *testing.T) {
				// A token takes longer than any test runs.
				globals := map[string]any{"rate": uint32(1), "burst": uint32(2)}
				for k, v := range test.globals {
					globals[k] = v
				}
				// Once more when the machine took so long that there was a token.
				for range 20 {
					c := load(t, "ratelimit", globals)
					for p, l := range test.limits {
						put(t, c.Maps["limits"], mapped(p), l)
					}
					began, wrong := time.Now(), []string(nil)
					for i, r := range test.rows {
						if code != 2 && !runsOnTC(r.frame) {
							continue
						}
						if got := run(t, c.Programs[entry], r.frame) == code; got != r.want {
							wrong = append(wrong, fmt.Sprintf("packet %d, %s: passes %v, want %v", i, packet.Describe(r.frame), got, r.want))
						}
					}
					if time.Since(began) < 900*time.Millisecond {
						for _, w := range wrong {
							t.Error(w)
						}
						return
					}
				}
				t.Error("the machine is too slow: a token came between the packets each time")
			})
		}
	}
}

// A bucket after any time, full or empty, at any rate and burst: arithmetic
// of whole numbers says what may pass.
func TestRatelimitArithmetic(t *testing.T) {
	frame := packet.UDP(ap("10.0.0.1:1"), ap("10.0.0.2:2"), nil)
	key := addr("10.0.0.1").As16()
	c := load(t, "ratelimit", nil)
	limits, buckets, p := c.Maps["limits"], c.Maps["buckets"], c.Programs["ratelimit"]
	second := big.NewInt(16e9)
	for _, rate := range []uint32{1, 2, 3, 7, 1000, 999_983, 10_000_000, 4_294_967_295} {
		for _, burst := range []uint32{1, 2, 1000, 1 << 28, 1<<28 + 1, 4_294_967_295} {
			put(t, limits, mapped(pfx("10.0.0.1/32")), limit{rate, burst})
			// One token in 1/16 ns, rounded up; how far ahead full_at may be.
			token := new(big.Int).Add(second, big.NewInt(int64(rate)-1))
			token.Div(token, big.NewInt(int64(rate)))
			slack := new(big.Int).Mul(token, big.NewInt(int64(min(burst, 1<<28))-1))
			if !slack.IsUint64() || slack.BitLen() > 62 {
				t.Fatalf("rate %d, burst %d: %s is more than the clock holds", rate, burst, slack)
			}
			const minute = 60 * 16e9
			for _, ahead := range []int64{-1 << 62, -minute, 0, slack.Int64() - minute, slack.Int64() + minute, 1<<62 - 1} {
				now := monotonic(t) * 16
				at := uint64(max(0, int64(now)+ahead))
				if int64(now)+ahead < 0 && ahead > 0 {
					at = 1<<63 - 1
				}
				put(t, buckets, key, at)
				passed := run(t, p, frame) == 2
				after := monotonic(t) * 16
				may := func(now uint64) bool { return at <= now || at-now <= slack.Uint64() }
				if passed != may(now) && passed != may(after) {
					t.Errorf("rate %d, burst %d, full at %d, now %d: passes %v", rate, burst, at, now, passed)
				}
				var left uint64
				if err := buckets.Lookup(key, &left); err != nil {
					t.Fatal(err)
				}
				lo, hi := max(at, now)+token.Uint64(), max(at, after)+token.Uint64()
				if passed && (left < lo || left > hi) || !passed && left != at {
					t.Errorf("rate %d, burst %d: full at %d, then %d; want %d to %d", rate, burst, at, left, lo, hi)
				}
			}
		}
	}
}

// From several CPUs at once never more than burst + rate × t pass, and a
// bucket that has idled is full.
func TestRatelimitBound(t *testing.T) {
	for _, l := range []limit{{5_000, 50}, {100_000, 1}, {200_000, 2_000}} {
		t.Run(fmt.Sprintf("rate %d burst %d", l.Rate, l.Burst), func(t *testing.T) {
			c := load(t, "ratelimit", map[string]any{"rate": l.Rate, "burst": l.Burst})
			frames := [][]byte{
				packet.UDP(ap("10.0.0.1:1"), ap("10.0.0.2:2"), nil),
				packet.UDP(ap("[fd00::1]:1"), ap("[fd00::2]:2"), nil),
			}
			for _, frame := range frames {
				for range 2 {
					var passed atomic.Uint64
					var wg sync.WaitGroup
					before := monotonic(t)
					for range 3 {
						wg.Go(func() {
							for range 6000 {
								if code, err := c.Programs["ratelimit"].Run(&ebpf.RunOptions{Data: frame}); err != nil {
									t.Error(err)
								} else if code == 2 {
									passed.Add(1)
								}
							}
						})
					}
					wg.Wait()
					elapsed := monotonic(t) - before
					bound := uint64(l.Burst) + uint64(l.Rate)*elapsed/1e9
					if n := passed.Load(); n > bound || n < uint64(l.Burst) {
						t.Errorf("%d passed in %d ns, want %d to %d", n, elapsed, l.Burst, bound)
					}
					// Idle until it is full.
					time.Sleep(time.Duration(uint64(l.Burst)*1e9/uint64(l.Rate)) + time.Millisecond)
				}
			}
		})
	}
}

// More sources than the map holds: memory stays bounded and all are served.
func TestRatelimitManySources(t *testing.T) {
	c := load(t, "ratelimit", map[string]any{"rate": uint32(1), "burst": uint32(1)})
	size := int(c.Maps["buckets"].MaxEntries())
	for i := range size + size/8 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		frame := packet.UDP(netip.AddrPortFrom(a, 1), ap("192.0.2.1:2"), nil)
		if code, err := c.Programs["ratelimit"].Run(&ebpf.RunOptions{Data: frame}); err != nil || code != 2 {
			t.Fatalf("first packet of source %d: code %d, %v", i, code, err)
		}
	}
	n := 0
	var k [16]byte
	var v uint64
	for it := c.Maps["buckets"].Iterate(); it.Next(&k, &v); {
		n++
	}
	if n > size || n < size/2 {
		t.Errorf("%d buckets, want up to %d", n, size)
	}
}
