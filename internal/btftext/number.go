package btftext

import "strconv"

// Number is one number in a value, or the sum of those in several values.
type Number struct {
	Path   string // .packets, .hist[3]; "" is the value itself
	signed bool
	real   bool
	n      uint64
	f      float64
}

// String is the number in decimal.
func (n Number) String() string {
	switch {
	case n.real:
		return strconv.FormatFloat(n.f, 'g', -1, 64)
	case n.signed:
		return strconv.FormatInt(int64(n.n), 10)
	}
	return strconv.FormatUint(n.n, 10)
}

// Since is what was added since before. A counter that wrapped around at 64
// bits went on counting.
func (n Number) Since(before Number) float64 {
	if n.real {
		return n.f - before.f
	}
	return float64(int64(n.n - before.n))
}

// HasNumbers says whether there are numbers in the type that can be added:
// integers, bitfields and floats, but not enums, pointers, and what is in unions.
func (f *Formatter) HasNumbers() bool { return f.root.numbers }

// Numbers are the numbers of a value, added over all the values that are given:
// those of a per-CPU map's entry. Sums of integers are modulo 2^64.
func (f *Formatter) Numbers(values ...[]byte) []Number {
	var list []Number
	f.root.visit("", 0, values, func(n Number) { list = append(list, n) })
	return list
}

func (n *node) visit(path string, at uint64, values [][]byte, f func(Number)) {
	if !n.numbers {
		return
	}
	switch n.op {
	case opStruct, opSection:
		for _, m := range n.members {
			p := path
			if m.plain != "" {
				p += "." + m.plain
			}
			m.visit(p, at+m.offset, values, f)
		}
	case opArray:
		for i := range n.len {
			n.elem.visit(path+"["+strconv.FormatUint(i, 10)+"]", at+i*n.elem.size, values, f)
		}
	default:
		sum := n.sum(at, values)
		sum.Path = path
		f(sum)
	}
}

func (n *node) sum(at uint64, values [][]byte) Number {
	sum := Number{signed: n.signed, real: n.op == opFloat}
	for _, v := range values {
		b := v[at:][:n.size]
		switch n.op {
		case opFloat:
			sum.f += n.float(b)
		case opBits:
			_, lo := n.field128(b)
			if n.signed {
				lo = uint64(extend(lo, uint(n.bits)))
			}
			sum.n += lo
		default:
			sum.n += n.load(b)
		}
	}
	return sum
}

// Sum writes the sums of several values in the shape of one. What cannot be
// added is left out.
func (f *Formatter) Sum(w *Writer, values ...[]byte) { f.root.writeSum(w, 0, values) }

func (n *node) writeSum(w *Writer, at uint64, values [][]byte) {
	switch n.op {
	case opStruct:
		w.BeginObject()
		for _, m := range n.members {
			if m.numbers {
				w.quotedName(m.name)
				m.writeSum(w, at+m.offset, values)
			}
		}
		w.EndObject()
	case opArray:
		w.BeginArray()
		for i := range n.len {
			n.elem.writeSum(w, at+i*n.elem.size, values)
		}
		w.EndArray()
	case opSection:
		w.BeginObject()
		w.quotedName(n.name)
		w.BeginArray()
		for _, m := range n.members {
			if m.numbers {
				w.BeginObject()
				w.quotedName(m.name)
				m.writeSum(w, at+m.offset, values)
				w.EndObject()
			}
		}
		w.EndArray()
		w.EndObject()
	case opFloat:
		writeFloat(w, n.sum(at, values).f, 64)
	default:
		if s := n.sum(at, values); s.signed {
			w.Int(int64(s.n))
		} else {
			w.Uint(s.n)
		}
	}
}

// Uint is a number on its own.
func Uint(n uint64) Number { return Number{n: n} }
