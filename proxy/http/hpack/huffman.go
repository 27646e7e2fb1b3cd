package hpack

import "encoding/binary"

// huffmanLen is the length in bits of each byte's code (RFC 7541 appendix B). The code is canonical: shorter codes first, codes of
// one length in the order of their bytes. So it follows from the lengths. EOS is 30 ones, the code behind the last.
var huffmanLen = [256]uint8{
	13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
	28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
	6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
	5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
	13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
	7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
	15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
	6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
	20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
	24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
	22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
	21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
	26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
	19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
	20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
	26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
}

const maxCodeLen = 30

// huffmanCode holds the codes, in the low bits.
var huffmanCode = func() (t [256]uint32) {
	code := uint32(0)
	for n := uint8(1); n <= maxCodeLen; n++ {
		for c := range t {
			if huffmanLen[c] == n {
				t[c] = code
				code++
			}
		}
		code <<= 1
	}
	return t
}()

// fastBits is how many bits one look decodes: a table of 1 KiB stays in the cache, and most bytes of headers have codes of 5 to 8 bits.
const fastBits = 9

// huffmanFast finds a byte (high) and the length of its code (low) by the next fastBits bits; 0: the code is longer.
var huffmanFast = func() (t [1 << fastBits]uint16) {
	for c, n := range huffmanLen {
		if n > fastBits {
			continue
		}
		from := huffmanCode[c] << (fastBits - n)
		for i := range uint32(1) << (fastBits - n) {
			t[from+i] = uint16(c)<<8 | uint16(n)
		}
	}
	return t
}()

// huffmanLong describes the codes of one length: the first one behind them, left-aligned in 32 bits, and where their bytes begin in
// huffmanOrder less the first one's number.
type huffmanLong struct {
	end    uint64
	offset int32
}

// huffmanOrder is all bytes in the order of their codes.
var huffmanOrder, huffmanLongs = func() (order [256]uint8, longs [maxCodeLen + 1]huffmanLong) {
	k := 0
	for n := uint8(1); n <= maxCodeLen; n++ {
		first, count := -1, 0
		for c := range order {
			if huffmanLen[c] == n {
				if first < 0 {
					first = int(huffmanCode[c])
				}
				order[k+count] = uint8(c)
				count++
			}
		}
		if count > 0 {
			longs[n] = huffmanLong{end: uint64(first+count) << (32 - n), offset: int32(k - first)}
		}
		k += count
	}
	return order, longs
}()

// maxDecoded is how many bytes n encoded ones become at most: the shortest code has 5 bits.
func maxDecoded(n int) int { return n * 8 / 5 }

// decodeHuffman writes the bytes of src to dst, which has room for maxDecoded, and returns their number.
func decodeHuffman(dst, src []byte) (n int, ok bool) {
	var acc uint64 // the next bits, left-aligned
	var have uint  // how many
	for n < len(dst) {
		if have < maxCodeLen {
			if len(src) >= 4 {
				acc |= uint64(binary.BigEndian.Uint32(src)) << (32 - have)
				src = src[4:]
				have += 32
			} else {
				for _, c := range src {
					acc |= uint64(c) << (56 - have)
					have += 8
				}
				src = nil
			}
		}
		e := huffmanFast[acc>>(64-fastBits)]
		if e == 0 {
			e = longCode(acc)
		}
		l := uint(e & 63)
		if l == 0 || l > have {
			break
		}
		dst[n] = byte(e >> 8)
		n++
		acc <<= l
		have -= l
	}
	// Padding is fewer than 8 bits of EOS (RFC 7541 section 5.2).
	return n, len(src) == 0 && have < 8 && acc>>(64-have) == 1<<have-1
}

// longCode finds a code of more than fastBits bits at the front of acc, as huffmanFast does; 0 for EOS.
func longCode(acc uint64) uint16 {
	front := acc >> 32
	for n := uint16(fastBits + 1); n <= maxCodeLen; n++ {
		if l := &huffmanLongs[n]; front < l.end {
			return uint16(huffmanOrder[int32(front>>(32-n))+l.offset])<<8 | n
		}
	}
	return 0
}

// huffmanSize is the length of s encoded.
func huffmanSize(s []byte) int {
	bits := 7
	for _, c := range s {
		bits += int(huffmanLen[c])
	}
	return bits >> 3
}

// appendHuffman appends s encoded.
func appendHuffman(dst, s []byte) []byte {
	var acc uint64
	var have uint
	for _, c := range s {
		n := uint(huffmanLen[c])
		acc = acc<<n | uint64(huffmanCode[c])
		if have += n; have >= 32 {
			have -= 32
			dst = binary.BigEndian.AppendUint32(dst, uint32(acc>>have))
		}
	}
	if have > 0 {
		pad := -have & 7
		acc = acc<<pad | (1<<pad - 1)
		for have += pad; have > 0; {
			have -= 8
			dst = append(dst, byte(acc>>have))
		}
	}
	return dst
}
