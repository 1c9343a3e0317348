package btftext

import (
	"strconv"
	"unicode/utf8"
)

// Writer writes one JSON document after the other into Buf, members in the
// order in which they come and names as often as they come.
type Writer struct {
	Buf    []byte
	Indent int // spaces for each level; 0 writes everything on one line

	depth int
	sep   byte // before the next element
}

// Reset begins a new document; what is in Buf stays.
func (w *Writer) Reset() { w.depth, w.sep = 0, 0 }

func (w *Writer) element() {
	if w.sep != 0 {
		w.Buf = append(w.Buf, w.sep)
	}
	w.sep = ','
}

func (w *Writer) line() {
	if w.Indent == 0 {
		return
	}
	w.Buf = append(w.Buf, '\n')
	for range w.depth * w.Indent {
		w.Buf = append(w.Buf, ' ')
	}
}

func (w *Writer) begin(c byte) {
	w.element()
	w.Buf = append(w.Buf, c)
	w.depth++
	w.sep = 0
}

func (w *Writer) end(c byte) {
	w.depth--
	if w.sep != 0 {
		w.line()
	}
	w.Buf = append(w.Buf, c)
	w.sep = ','
}

// BeginObject, EndObject, BeginArray and EndArray bracket what is written
// between them.
func (w *Writer) BeginObject() { w.begin('{') }

// EndObject ends an object.
func (w *Writer) EndObject() { w.end('}') }

// BeginArray begins an array.
func (w *Writer) BeginArray() { w.begin('[') }

// EndArray ends an array.
func (w *Writer) EndArray() { w.end(']') }

// Name writes the name of the member that comes next.
func (w *Writer) Name(name string) {
	w.element()
	w.line()
	w.Buf = AppendString(w.Buf, name)
	w.colon()
}

func (w *Writer) colon() {
	w.Buf = append(w.Buf, ':')
	if w.Indent > 0 {
		w.Buf = append(w.Buf, ' ')
	}
	w.sep = 0
}

// quotedName is Name for a name that is JSON already.
func (w *Writer) quotedName(name string) {
	w.element()
	w.line()
	w.Buf = append(w.Buf, name...)
	w.colon()
}

// Uint writes a number.
func (w *Writer) Uint(n uint64) {
	w.element()
	w.Buf = strconv.AppendUint(w.Buf, n, 10)
}

// Int writes a number.
func (w *Writer) Int(n int64) {
	w.element()
	w.Buf = strconv.AppendInt(w.Buf, n, 10)
}

// Bool writes true or false.
func (w *Writer) Bool(b bool) {
	w.element()
	w.Buf = strconv.AppendBool(w.Buf, b)
}

// String writes text. What is not UTF-8 in it becomes U+FFFD.
func (w *Writer) String(s string) {
	w.element()
	w.Buf = AppendString(w.Buf, s)
}

// Hex writes an array of one text per byte: ["0x0a","0x00"].
func (w *Writer) Hex(b []byte) {
	w.BeginArray()
	for i, c := range b {
		if i > 0 {
			w.Buf = append(w.Buf, ',')
		}
		w.Buf = append(w.Buf, hexBytes[c][:]...)
		w.sep = ','
	}
	w.EndArray()
}

// JSON writes what is JSON already.
func (w *Writer) JSON(text []byte) { w.raw(string(text)) }

// raw is JSON for strings.
func (w *Writer) raw(s string) {
	w.element()
	w.Buf = append(w.Buf, s...)
}

const digits = "0123456789abcdef"

var hexBytes = func() (t [256][6]byte) {
	for i := range t {
		t[i] = [6]byte{'"', '0', 'x', digits[i>>4], digits[i&15], '"'}
	}
	return t
}()

// AppendString appends text as JSON has it. What is not UTF-8 in it becomes U+FFFD.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			switch {
			case r == utf8.RuneError && n == 1, r == '\u2028', r == '\u2029':
				b = append(b, `\u`...)
				b = append(b, digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
			default:
				b = append(b, s[i:i+n]...)
			}
			i += n
			continue
		}
		i++
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c < ' ' || c == 0x7f:
			b = append(b, `\u00`...)
			b = append(b, digits[c>>4], digits[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
