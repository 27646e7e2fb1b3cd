package hpack

// Reason says why a header block cannot be decoded: the connection's tables differ from now on, so it must end
// (COMPRESSION_ERROR, RFC 9113 section 4.3).
type Reason uint8

const (
	OK Reason = iota
	Truncated
	IntegerTooLarge
	InvalidIndex
	InvalidHuffman
	LateSizeUpdate
	LargeSizeUpdate
	ManySizeUpdates
	MissingSizeUpdate
	numReasons
)

var reasons = [numReasons]struct{ name, sentence string }{
	OK:                {"ok", ""},
	Truncated:         {"hpack_truncated", "a header block ends within a field"},
	IntegerTooLarge:   {"hpack_integer_too_large", "an integer in a header block is larger than any use of it"},
	InvalidIndex:      {"hpack_invalid_index", "a header block refers to an entry that the table does not have"},
	InvalidHuffman:    {"hpack_invalid_huffman", "a string in a header block is not valid Huffman code"},
	LateSizeUpdate:    {"hpack_late_size_update", "a header block changes the table's size behind its first field"},
	LargeSizeUpdate:   {"hpack_large_size_update", "a header block makes the table larger than SETTINGS_HEADER_TABLE_SIZE allows"},
	ManySizeUpdates:   {"hpack_many_size_updates", "a header block changes the table's size more than twice"},
	MissingSizeUpdate: {"hpack_missing_size_update", "the table had to become smaller, and the next header block did not say so"},
}

// String is the name used in logs.
func (r Reason) String() string { return reasons[r].name }

// Sentence explains the reason to an operator.
func (r Reason) Sentence() string { return reasons[r].sentence }

// Explain is the sentence of the reason with a name; "": there is none.
func Explain(name string) string {
	for i := range reasons {
		if reasons[i].name == name {
			return reasons[i].sentence
		}
	}
	return ""
}
