/* judge.h - a second JSON reader, plain and slow, to compare with room json
 *
 * It reads RFC 8259 recursively. Like room json it also asks for UTF-8, whole
 * surrogate pairs, and at most 64 levels; a wanted member must be of its kind,
 * and come once. It shares no code with room json.
 */

#if !defined(KAWS_JUDGE_H)
#define KAWS_JUDGE_H

enum { JUDGE_DEPTH = 64, JUDGE_WANTED = 8 };
enum { JUDGE_STRING, JUDGE_OR_NULL, JUDGE_IF_STRING, JUDGE_AS_WRITTEN };
                                  /* kinds: see kaws__member                  */

typedef struct judge {
    const uint8_t *at, *end;
    uint8_t    *text;             /* strings, decoded, one behind the other   */
    kaws_bytes  last;             /* the last one of them                     */
    const char *want[JUDGE_WANTED];
    int         kind[JUDGE_WANTED];
    kaws_bytes  found[JUDGE_WANTED];      /* .at is NULL: not there           */
} judge;


/* The length of the first character, by Unicode's table 3-7; 0: not UTF-8. */
FUZZ size_t
judge_utf8(const uint8_t *at, size_t len)
{
    static const struct { uint8_t first, last, low, high; size_t n; } rows[] = {
        { 0x00, 0x7f, 0x00, 0x00, 1 }, { 0xc2, 0xdf, 0x80, 0xbf, 2 },
        { 0xe0, 0xe0, 0xa0, 0xbf, 3 }, { 0xe1, 0xec, 0x80, 0xbf, 3 },
        { 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 },
        { 0xf0, 0xf0, 0x90, 0xbf, 4 }, { 0xf1, 0xf3, 0x80, 0xbf, 4 },
        { 0xf4, 0xf4, 0x80, 0x8f, 4 }
    };
    size_t r, i, n;

    for (r = 0; len > 0 && r < sizeof rows / sizeof rows[0]; r++) {
        n = rows[r].n;
        if (at[0] < rows[r].first || at[0] > rows[r].last || n > len ||
            (n > 1 && (at[1] < rows[r].low || at[1] > rows[r].high)))
            continue;
        for (i = 2; i < n; i++)
            if (at[i] < 0x80 || at[i] > 0xbf)
                return 0;
        return n;
    }
    return 0;
}


FUZZ int
judge_is_utf8(kaws_bytes text)
{
    size_t n = 1;

    while (text.len > 0 && n > 0) {
        n = judge_utf8(text.at, text.len);
        (void)fuzz_take(&text, n);
    }
    return n > 0;
}


/* Skips blanks, and then `byte` if it comes next. */
FUZZ int
judge_is(judge *j, int byte)
{
    while (j->at < j->end && strchr(" \t\r\n", *j->at) != NULL && *j->at != 0)
        j->at++;
    if (j->at == j->end || *j->at != byte)
        return 0;
    j->at++;
    return 1;
}


/* The number after "\u"; -1 if there is none. */
FUZZ long
judge_hex(judge *j)
{
    char digits[5] = "";
    int i;

    for (i = 0; i < 4 && j->at < j->end; i++)
        digits[i] = (char)*j->at++;
    return strspn(digits, "0123456789abcdefABCDEF") == 4
         ? strtol(digits, NULL, 16) : -1;
}


/* Appends the character with that number to the decoded strings, as UTF-8. */
FUZZ void
judge_put(judge *j, long c)
{
    uint8_t *out = j->text;

    if (c < 0x80) {
        *out++ = (uint8_t)c;
    } else if (c < 0x800) {
        *out++ = (uint8_t)(0xc0 + c / 64);
        *out++ = (uint8_t)(0x80 + c % 64);
    } else if (c < 0x10000) {
        *out++ = (uint8_t)(0xe0 + c / 4096);
        *out++ = (uint8_t)(0x80 + c / 64 % 64);
        *out++ = (uint8_t)(0x80 + c % 64);
    } else {
        *out++ = (uint8_t)(0xf0 + c / 262144);
        *out++ = (uint8_t)(0x80 + c / 4096 % 64);
        *out++ = (uint8_t)(0x80 + c / 64 % 64);
        *out++ = (uint8_t)(0x80 + c % 64);
    }
    j->text = out;
}


/* Reads what follows a backslash. */
FUZZ int
judge_escape(judge *j)
{
    static const char plain[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    long c, low;
    size_t i;

    if (j->at == j->end)
        return 0;
    for (i = 0; i < 16; i += 2)
        if (*j->at == plain[i]) {
            j->at++;
            judge_put(j, plain[i + 1]);
            return 1;
        }
    if (*j->at++ != 'u')
        return 0;
    c = judge_hex(j);
    if (c >= 0xd800 && c < 0xdc00) {
        if (j->end - j->at < 2 || memcmp(j->at, "\\u", 2) != 0)
            return 0;
        j->at += 2;
        low = judge_hex(j);
        if (low < 0xdc00 || low > 0xdfff)
            return 0;
        c = 0x10000 + (c - 0xd800) * 1024 + low - 0xdc00;
    } else if (c < 0 || (c >= 0xdc00 && c < 0xe000)) {
        return 0;
    }
    judge_put(j, c);
    return 1;
}


FUZZ int
judge_string(judge *j)
{
    size_t n;

    if (!judge_is(j, '"'))
        return 0;
    j->last.at = j->text;
    while (j->at < j->end && *j->at >= 0x20) {
        if (*j->at == '"') {
            j->at++;
            j->last.len = (size_t)(j->text - j->last.at);
            return 1;
        }
        if (*j->at == '\\') {
            j->at++;
            if (!judge_escape(j))
                return 0;
            continue;
        }
        n = judge_utf8(j->at, (size_t)(j->end - j->at));
        if (n == 0)
            return 0;
        memcpy(j->text, j->at, n);
        j->text += n;
        j->at += n;
    }
    return 0;
}


FUZZ int
judge_number(judge *j)
{
    char text[2048];              /* an input of libFuzzer's is shorter       */
    size_t n = (size_t)(j->end - j->at);
    int used = 0, part = 0;

    n = n < sizeof text ? n : sizeof text - 1;
    memcpy(text, j->at, n);
    text[n] = '\0';
    used += text[used] == '-';
    part = (int)strspn(text + used, "0123456789");
    if (part == 0)
        return 0;
    used += text[used] == '0' ? 1 : part;
    if (text[used] == '.') {
        part = (int)strspn(text + used + 1, "0123456789");
        if (part == 0)
            return 0;
        used += 1 + part;
    }
    if (text[used] == 'e' || text[used] == 'E') {
        used += text[used + 1] == '+' || text[used + 1] == '-' ? 2 : 1;
        part = (int)strspn(text + used, "0123456789");
        if (part == 0)
            return 0;
        used += part;
    }
    j->at += used;
    return 1;
}


FUZZ int
judge_value(judge *j, int depth)
{
    static const char *const words[] = { "true", "false", "null" };
    size_t i;
    int object = judge_is(j, '{');

    if (object || judge_is(j, '[')) {
        int end = object ? '}' : ']';
        if (depth == JUDGE_DEPTH)
            return 0;
        if (judge_is(j, end))
            return 1;
        do {
            if ((object && (!judge_string(j) || !judge_is(j, ':'))) ||
                !judge_value(j, depth + 1))
                return 0;
        } while (judge_is(j, ','));
        return judge_is(j, end);
    }
    if (j->at < j->end && *j->at == '"')
        return judge_string(j);
    for (i = 0; i < 3; i++)
        if ((size_t)(j->end - j->at) >= strlen(words[i]) &&
            memcmp(j->at, words[i], strlen(words[i])) == 0) {
            j->at += strlen(words[i]);
            return 1;
        }
    return judge_number(j);
}


FUZZ int
judge_member(judge *j)
{
    const uint8_t *from;
    size_t i;

    if (!judge_string(j) || !judge_is(j, ':'))
        return 0;
    for (i = 0; i < JUDGE_WANTED && j->want[i] != NULL; i++) {
        if (!kaws__buf_same(j->last, kaws__buf_of(j->want[i])))
            continue;
        (void)judge_is(j, -1);
        from = j->at;
        if (j->found[i].at != NULL || from == j->end)
            return 0;
        if ((j->kind[i] == JUDGE_OR_NULL && *from == 'n') ||
            (j->kind[i] == JUDGE_IF_STRING && *from != '"'))
            return judge_value(j, 0);
        if (j->kind[i] != JUDGE_AS_WRITTEN && !judge_string(j))
            return 0;
        j->found[i] = j->last;
        if (j->kind[i] != JUDGE_AS_WRITTEN)
            return 1;
        j->found[i].at = from;
        if (!judge_value(j, 0))
            return 0;
        j->found[i].len = (size_t)(j->at - from);
        return 1;
    }
    return judge_value(j, 0);
}


/* Reads an object, and accepts nothing after it. The caller has set j->want;
 * `room` has one byte more than the text. */
FUZZ int
judge_object(judge *j, kaws_bytes text, uint8_t *room)
{
    j->at = text.at;
    j->end = text.at + text.len;
    j->text = room;
    if (!judge_is(j, '{'))
        return 0;
    if (!judge_is(j, '}')) {
        do {
            if (!judge_member(j))
                return 0;
        } while (judge_is(j, ','));
        if (!judge_is(j, '}'))
            return 0;
    }
    (void)judge_is(j, -1);
    return j->at == j->end;
}


/* ---- base64, for the members' values ----------------------------------- */

/* Decodes base64 to `out`; returns the number of bytes, or -1 if the text is
 * not base64 with all its padding and no stray bit. */
FUZZ long
judge_base64(kaws_bytes text, uint8_t *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "abcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned bits = 0, count = 0;
    long len = 0;
    size_t pad = 0;

    if (text.len % 4 != 0)
        return -1;
    while (pad < 2 && pad < text.len && text.at[text.len - 1 - pad] == '=')
        pad++;
    for (text.len -= pad; text.len > 0; text.at++, text.len--) {
        const char *digit = strchr(digits, *text.at);
        if (*text.at == 0 || digit == NULL)
            return -1;
        bits = (bits << 6 | (unsigned)(digit - digits)) & 0xffff;
        count += 6;
        if (count >= 8) {
            count -= 8;
            out[len++] = (uint8_t)(bits >> count);
            bits &= (1u << count) - 1;
        }
    }
    return bits == 0 && count == (pad == 0 ? 0 : pad * 2) ? len : -1;
}

#endif /* KAWS_JUDGE_H */
