/* keyring_aws.h - v1.0.0 - a keyring protected by AWS KMS - BSD-2-Clause
 *
 * Stores small secrets, usually the keys of a database, in a local file. AWS
 * KMS makes a key, or takes yours, and encrypts it; the file holds only KMS
 * ciphertext. To read a key back, one needs the file and the right to use the
 * KMS key.
 *
 * In ONE C file, best before any other include (section 3):
 *
 *     #define KEYRING_AWS_IMPLEMENTATION
 *     #include "keyring_aws.h"
 *
 * In all other files, just include it. Link with -lbearssl -lcurl (and with
 * -lpthread -ldl if libc does not contain them).
 *
 *     int main(void)
 *     {
 *         kaws_config cfg = { .data_file  = "keys.kaws",
 *                             .kms_key_id = "alias/app",
 *                             .region     = "eu-west-1",
 *                             .conf_file  = "keys.conf" };
 *         kaws_bytes mine = { (const uint8_t *)"correct horse", 13 };
 *         kaws_name a = { "a", "" }, b = { "b", "someone" };
 *         kaws_entry_info info;
 *         kaws_walk *walk;
 *         kaws_error err;
 *         kaws_key key;
 *         kaws *ring;
 *
 *         if (kaws_open(&ring, &cfg, &err) ||
 *             kaws_generate(ring, a, "AES", 32, &err) ||
 *             kaws_store(ring, b, "SECRET", mine, &err) ||
 *             kaws_fetch(ring, b, &key, &err) ||
 *             kaws_remove(ring, a, &err) ||
 *             kaws_rotate_kms_key(ring, &err) ||
 *             kaws_rewrap_all(ring, &err) ||
 *             kaws_walk_begin(ring, &walk, &err))
 *             return fprintf(stderr, "%s\n", err.text), 1;
 *         while (kaws_walk_next(walk, &info))
 *             printf("%s: %s\n", info.name.key_id, info.kms_key_arn);
 *         kaws_walk_end(walk);
 *         kaws_key_free(ring, &key);
 *         kaws_close(ring);
 *         return 0;
 *     }
 *
 * CONTENTS     1 Words             2 How a key travels    3 Switches
 *              4 Errors            5 Memory and secrets   6 Threads, processes
 *              7 The data file     8 What goes over the wire
 *              9 Limits           10 Recipes           11 House rules
 *              Then PART II, the declarations, and PART III, the rooms (search
 *              for "ROOM  json"). The licence is at the end.
 *
 * The MySQL plugin in keyring_aws_plugin.c uses this library like any other
 * program does. Its manual is README.md, and the pages in tests/package/man.
 *
 *
 * 1  WORDS
 *
 * Each word is used in one sense only:
 *
 *     key               what a caller stores: bytes, a type, a name
 *     name              a key id and a user id together
 *     KMS key           the key in AWS KMS that encrypts keys; it never
 *                       leaves AWS
 *     blob              a key as KMS encrypted it: ciphertext
 *     to seal           to have KMS encrypt a key; kaws_sealed holds the result
 *     to pack           to write a sealed value as bytes for a file or message
 *     plaintext         a key's bytes before sealing
 *     credentials       access key id, secret access key, session token
 *     source            where the credentials come from
 *     conf file         the source that is a file of credentials alone
 *     profile           a source: what AWS's own files say under one name
 *     data file         the file that the entries are kept in
 *     entry             a name, its blob, and all else stored with it
 *     record            the bytes of one entry in the data file
 *     committed length  how many bytes of the data file count as written
 *     torn end          what a crash left of a record that was being written
 *     keyring           all entries of one data file
 *     ring              a keyring that a program has opened; without a data
 *                       file it has no entries, and only calls AWS KMS
 *     table             the ring's entries in memory
 *     cache             fetched keys that the ring keeps in memory, encrypted
 *     re-wrap           to have KMS re-encrypt every blob under the current
 *                       KMS key (SQL: keyring_aws_rotate_keys)
 *     to refresh        to read in what other processes changed in the file
 *                       (SQL: keyring_aws_refresh)
 *     rotation          new key material for the KMS key itself
 *                       (SQL: keyring_aws_rotate_cmk)
 *     multi-region key  a KMS key that exists in several regions, with one id
 *                       (mrk-...) and one key material; AWS calls one of them
 *                       the primary key, and the others replicas
 *     home              the region in a KMS key's ARN
 *     failover region   a region of the list config.failover_regions
 *     route             home, and then the failover regions that may answer in
 *                       its place (section 8.1)
 *     trusted account   an AWS account whose KMS keys the ring will use
 *     own account       the trusted account that the ring learns (section 8)
 *     operation         all KMS requests that one library call makes
 *     attempt           one of those requests, sent once
 *     dry run           a request that KMS checks but does not carry out
 *     to presign        to put a request's signature into its URL's query
 *     member            a name and a value in a JSON object
 *
 *
 * 2  HOW A KEY TRAVELS
 *
 *     open       conf file, or config.auth's source -> credentials, if they
 *                can be read; data file -> checks -> table
 *     generate   is the name free? -> KMS makes and seals a key -> is the name
 *                still free? -> a record is appended to the file -> table
 *     store      the same, but KMS seals the caller's key, then decrypts the
 *                blob: the result must equal the key
 *     fetch      name -> table -> copy of the blob -> KMS decrypts it -> caller
 *                (and, if there is a cache: -> encrypted in memory, and from
 *                there to those who fetch it next)
 *     remove     the file is replaced by one without the record -> table
 *     re-wrap    for each blob: KMS re-encrypts it, and confirms in a dry run
 *                that it would decrypt the new blob; then the file is replaced
 *                -> table
 *     refresh    did other processes change the file? -> checks -> table
 *
 * A WALK with a generated key, from the call to the disk:
 *
 *     kaws_generate (ring): checks the length
 *     kaws__bind_name (bind): checks the name, and begins a record with it
 *     kaws__vault_look (vault): checks that the name is free
 *     kaws__kms_seal (kms): writes the request; later it checks the reply
 *     kaws__calls_send (calls): sends the request, and repeats it if that helps
 *     kaws__http_send (http): sends it once; only a reply to it counts
 *     kaws__trust_check (trust): checks the account of the KMS key used
 *     kaws__vault_add (vault): takes the locks, and checks the name again
 *     kaws__store_record (store): writes the record
 *     kaws__save_append (save): appends the record to the file, and syncs it
 *     kaws__table_add (table): shows the key to all threads
 *
 * A WALK with a fetched key, to KMS and back:
 *
 *     kaws_fetch (ring): allocates the key that the caller will own
 *     kaws__bind_name (bind): checks the name
 *     kaws__vault_look (vault): copies the entry, and releases the lock
 *     kaws__table_find (table): finds the entry by its name
 *     kaws__shield_ask (shield): looks in the cache, if there is one
 *     kaws__kms_open (kms): asks KMS whom to trust, if that is not known
 *     kaws__kms_decrypt (kms): writes the request; later copies the plaintext
 *     kaws__trust_check (trust): checks the account before anything is sent
 *     kaws__calls_send (calls): has the request signed, and decides on a retry
 *     kaws__route_choose (route): which region may be asked?
 *     kaws__breaker_ask (breaker): is the host known not to answer?
 *     kaws__creds_signer (creds): lends the day's signing key
 *     kaws__sigv4_authorize (sigv4): signs the request
 *     kaws__http_send (http): lends a buffer for the reply, and checks its id
 *     kaws__curl_send (curl): sends it over a connection that is clean
 *     kaws__json_read (json): finds Plaintext and KeyId in the reply
 *     kaws__text_unbase64 (text): decodes the plaintext
 *     kaws__shield_end (shield): keeps the key, encrypted, if there is a cache
 *
 * Four rules always hold:
 *
 * (1) Disk first. A change is durable on disk before the table shows it. If
 *     the disk refuses the change, neither the disk nor the table has changed.
 *     There is one exception: if the disk fails during a change, and fails
 *     again while the change is undone, nobody can know what the file holds.
 *     The call then returns KAWS_UNCERTAIN, the table follows the file that is
 *     there, and the ring accepts no further change until it is refreshed or
 *     reopened.
 * (2) Few functions see plaintext: kaws_store, kaws_fetch, the KMS calls that
 *     they make, the two that put a key into the cache and take it out, and a
 *     re-wrap across regions. The table and the file hold only blobs, and the
 *     cache holds only encrypted keys.
 * (3) No thread waits for AWS while it holds the ring's lock. That lock covers
 *     the table and the file, so a KMS that hangs delays only the threads that
 *     need KMS.
 * (4) A reply counts only if it can be the answer to our request, and a blob
 *     is verified before it replaces another. Section 8 says how.
 *
 *
 * 3  SWITCHES      define them above the include
 *
 *     KEYRING_AWS_IMPLEMENTATION   in one C file: compiles the functions
 *     KEYRING_AWS_STATIC           in the same file: makes them private to it
 *     KEYRING_AWS_NO_CURL          omits libcurl: hooks.send must be set
 *     KEYRING_AWS_NO_THREADS       omits pthreads: call from one thread only
 *
 * The C file with the implementation may include other headers first, even this
 * one without the implementation. But a header that came first may hide
 * declarations that the implementation needs. So compile that file as gnu99 or
 * newer (the compiler's default), not as c99, or with -D_GNU_SOURCE; if off_t
 * would have 32 bits, compile it also with -D_FILE_OFFSET_BITS=64. If you
 * forget this, the compiler says what to do. Define KEYRING_AWS_STATIC above
 * the file's first include of this header. On Windows the order does not
 * matter. The implementation is C; in C++ only include it.
 *
 * A later version may add members to our structs; if a new member is zero,
 * nothing changes. So name the members that you initialize, or begin with
 * memset. If you list bare values, the compiler warns
 * (-Wmissing-field-initializers), or the values land in the wrong members.
 *
 *
 * 4  ERRORS
 *
 * Functions return a kaws_status: one word for what happened. The caller's
 * kaws_error holds the rest. Its text is one sentence for a log: what we were
 * doing, to what, what went wrong, and what to do. The text is one line of
 * printable ASCII. It contains no secret, no signature and no reply. Text that
 * comes from elsewhere (names, settings, files, AWS, libcurl) is made safe: odd
 * bytes are shown as \xNN, the user and password of a URL as ***, long base64
 * is cut, and any text that repeats a piece of a known secret is left out.
 *
 * A KMS request is repeated if that can help: if KMS throttles, fails, or is
 * unreachable, or if a reply repeats a request id. There are up to 3 attempts,
 * with random pauses that grow. Attempts that KMS throttles are not counted:
 * they go on, after random pauses of up to 1 s, for as long as timeout_ms
 * allows. max_attempts, if it is set, bounds all attempts (with one exception
 * in section 8.1); then the pauses grow up to 20 s. If KMS asks for a longer
 * pause (x-amz-retry-after), it gets up to 5 s, and our random pause follows.
 * Two more attempts are made at once and are never counted. The first follows
 * if AWS refuses the signature and its Date header shows that our clock is
 * wrong by more than 4 minutes. The second follows if AWS refuses the
 * credentials and their source has newer ones.
 *
 * timeout_ms limits one operation with all its attempts and pauses (a fetch,
 * for example, or a store and its verification). Only a re-wrap and a rotation
 * take longer: there it limits each step (re-encrypting one key, verifying it).
 * It does not limit the system's resolver, which has timeouts of its own
 * (resolv.conf). hooks.ticks_ms measures all durations, so setting the clock
 * does not change a timeout.
 *
 * A host that does not answer would cost every call its whole timeout. So all
 * rings of a process share what they know of a host. It counts as unreachable
 * when a call ends in vain: each attempt got no connection, no reply in time,
 * or a 5xx (but KeyUnavailableException, which is about one KMS key, counts as
 * an answer). From then on, calls to it fail at once, with NETWORK or SERVICE,
 * and the text says since when, and when the next attempt is due. One call at a
 * time is sent as a probe: after 0.25 s, and then after pauses that double up
 * to 5 s. A probe is one attempt of at most connect_timeout_ms plus 1 s. Any
 * reply but a 5xx, even a refusal or throttling, lets all calls through again.
 * (So after an outage a host that takes longer than a probe for every reply
 * stays unreachable: then raise connect_timeout_ms.) Some failures prove
 * nothing: those of cancelled calls; those of attempts that had less than half
 * a second for the reply, and used it up; and those of calls that began before
 * the last reply came. Rings with different ca_files or proxies, or with
 * different hooks `send` or `ticks_ms`, share nothing, and when the last ring
 * with such hooks is closed, what it knew is forgotten. Nor do rings share
 * anything if their connect timeouts differ, and one of them is below half a
 * second. With KEYRING_AWS_STATIC each implementation in a program has a state
 * of its own. A forked child begins with none. The log gets a warning for an
 * outage, and a note when it ends; but only for one outage in 10 s for each
 * host, and the next warning says how many outages got no line.
 *
 * A call for a multi-region key may go to another region in place of failing:
 * see section 8.1. It waits, or fails, only if no region of its route answers.
 *
 * A program that cannot work without its keys, such as a server that is
 * starting, sets hooks.patience_ms. The hook says how much longer calls may
 * wait for KMS. While it returns more than 0, every error that can be retried
 * is retried about once a second, whatever max_attempts says, and each attempt
 * gets a new timeout_ms. While the host is unreachable, calls wait for it in
 * place of failing at once, and one at a time is sent as a probe. So an
 * operation ends at the latest one timeout_ms after the hook's time is up. If
 * the hook returns INT_MIN, the operation ends at its first failed attempt. A
 * definite error (DENIED, for example) ends it at once, as always.
 *
 * A program whose users can interrupt it sets hooks.cancelled. While a call
 * waits for AWS KMS, for another process or for another thread, it asks the
 * hook at least every 100 ms. If the hook returns 1, the call ends with
 * CANCELLED, and nothing has changed. A change that has begun on disk is always
 * finished. (If AWS has already been asked to rotate the KMS key, it may still
 * do so: then the error's text says so.)
 *
 * The credentials have one source: hooks.creds if it is set, else the conf file
 * or, with config.auth = "native", what section 4.1 says. Only a call that asks
 * AWS KMS needs them. So a ring opens without them, with a warning if a source
 * that is configured gives none. Each call that needs them then asks the source
 * again, and fails if the source still has none: CREDENTIALS for the hook,
 * CONFIG for the conf file; for the others see section 4.1. (With
 * config.must_have_creds, kaws_open itself fails.)
 *
 * Credentials that expire are renewed when 5 minutes are left, or a third of
 * their life if that is shorter. One call asks the source; the others go on
 * with the old ones. If the source fails, we log a warning, at most one a
 * minute, until the old ones have expired. Once they have expired, or if AWS
 * refuses them, one call asks the source, and all other calls that need
 * credentials wait for the answer. It counts for all of them, even if it is a
 * failure. We judge expiry by AWS's clock, as far as we know it. If the hook
 * gives credentials that seem to have expired, we still use them for a minute,
 * because AWS knows better.
 *
 * The conf file holds the access key id, the secret access key and, if there is
 * one, the session token: one line each, in that order; or each after its name,
 * in any order (aws_access_key_id = ..., aws_secret_access_key,
 * aws_session_token, in small or capital letters; a word such as "export",
 * "set" or "$Env:" may come first). We ignore blanks, empty lines, a byte order
 * mark, a pair of quotes around a value, comments (lines that begin with # or
 * ;), the head of a profile ([default]) above all values and, if the values
 * have names, lines with other names. We refuse anything else that cannot be
 * part of an AWS value; the error names its line and column. We also refuse an
 * id that begins with ASIA without a token, because such an id is temporary.
 * The conf file may also be the settings file of MySQL's keyring component, a
 * JSON object: then the credentials are in its object aws_authentication, as
 * access_key_id, access_key_secret and, if there is one, session_token.
 *
 *
 * 4.1  Credentials without a conf file
 *
 * With config.auth = "native" the conf file is not looked at. The ring takes
 * the first source that is configured when it opens. If that source fails, its
 * error counts: no other source is asked, because that one would have the
 * rights of a different role.
 *
 *     the profile       config.profile names it
 *     the environment   AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set,
 *                       and AWS_SESSION_TOKEN, if there is one; one of the
 *                       first two alone is an error
 *     the profile       AWS_PROFILE names it; or `default`, if a file has it
 *                       or cannot be read, or if a file that config_file or
 *                       credentials_file names is missing
 *     the web identity  AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN (IRSA):
 *                       AWS STS gives the role's credentials for the token in
 *                       that file. AWS_ROLE_SESSION_NAME, else keyring_aws, is
 *                       what CloudTrail shows
 *     the container     AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI, as
 *                       ECS, EKS Pod Identity and Greengrass set them
 *     the instance      if none of these is configured: the role of the EC2
 *                       instance, by its metadata service, version 2; but not
 *                       if AWS_EC2_METADATA_DISABLED is true
 *
 * A profile is read from two files of AWS's tools: config_file (or what
 * AWS_CONFIG_FILE names), where its section is [profile NAME] or [default], and
 * credentials_file (or AWS_SHARED_CREDENTIALS_FILE), where it is [NAME]. A file
 * that is not there is empty. No file is looked for in the user's folder (~),
 * so name the files. If both files have the same property, the credentials
 * file's value counts; but its keys never get a token of the config file. Room
 * ini has the grammar; anything else is refused: the error names the line, and
 * shows no value. Both files together may have 65535 bytes. Inside a profile,
 * the first of these counts:
 *
 *     role_arn, and web_identity_token_file       as the web identity above
 *     role_arn, and one of source_profile and     the role, assumed with the
 *       credential_source                         credentials that these have
 *     sso_..., login_session                      refused: for people
 *     aws_access_key_id, aws_secret_access_key,   these keys
 *       aws_session_token
 *     credential_process                          what that program prints
 *
 * A role may have role_session_name, duration_seconds and (not with a token
 * file) external_id.
 * credential_source is Environment, EcsContainer or Ec2InstanceMetadata. A
 * source_profile that has keys ends the chain; up to five roles may follow each
 * other, and none may lead back.
 *
 * The program of credential_process is run without a shell. Its words are split
 * as a POSIX shell does, and nothing is expanded. It must be named by its full
 * path, belong to root or to our user, and nobody else may write to it, nor to
 * the file that names it. It must print one JSON object: Version (the number
 * 1), AccessKeyId, SecretAccessKey and, for temporary credentials, SessionToken
 * and Expiration. It may take what is left of the call's time (half of that,
 * while the old credentials live), and print 65535 bytes. When it ends, or is
 * killed because its time is up, all that it started in its process group is
 * killed. What it prints is never shown. On Windows no program is run.
 *
 * With config.role_arn, the credentials of any source, even those of the conf
 * file or the hook, are used for one thing only: to assume that role.
 * role_external_id and role_session_name (or else keyring_aws) go with it.
 *
 * STS is asked in the region of the KMS key, over HTTPS as AWS KMS is; or at
 * config.sts_endpoint, which must be in that region. It is asked for 5 seconds
 * at most each time, and up to three times if it is busy, or if the next
 * attempt may do better. For a web identity the request is not signed: the
 * token, of 20000 bytes at most, is the proof, and is read again each time.
 *
 * Container and instance are asked over HTTP: without a proxy, without
 * following redirects, each time over a connection of its own. A request takes
 * 2 seconds at most, and the instance needs three. The host must be this
 * machine or one of the addresses that AWS keeps for this; with https, the
 * container's host may be any. A token from
 * AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE is read again each time. For the
 * instance, AWS_EC2_METADATA_SERVICE_ENDPOINT, _MODE and
 * AWS_EC2_INSTANCE_PROFILE_NAME count, too. A source that cannot be reached, or
 * a program that fails, is asked again after a minute (or by
 * kaws_reload_creds); until then each call that needs it fails at once, with
 * NETWORK or SERVICE. A caller with patience (hooks.patience_ms) has it asked
 * each second. Any other failure of these sources is CREDENTIALS, or CONFIG if
 * a variable, a property or a file is missing or wrong.
 *
 * The environment counts only if the process has no more rights than the one
 * that started it (setuid, file capabilities); if it has, a program that we
 * start gets no environment but a PATH. A variable that is empty counts as not
 * set. Each change of the credentials is a note (KAWS-165): their source, whose
 * they are (a role's ARN, or an account, if the source tells), the last four
 * characters of the access key id, and when they expire. When AWS refuses them,
 * the source is read again, as the conf file is.
 *
 *
 * 5  MEMORY AND SECRETS
 *
 * All memory comes from hooks.memory (by default malloc and free), and every
 * block is wiped before it is given back. The credentials live in pages of
 * their own, which are locked and excluded from core dumps if the system allows
 * it. What hooks.creds returns is copied there; the program wipes its own copy.
 * A fetched key belongs to the caller; kaws_key_free wipes it.
 *
 * With config.cache_seconds, or kaws_use_cache, fetched keys are kept, at most
 * 1024 keys and 1 MiB; if there are more, the oldest are wiped first. Each is
 * encrypted by itself with ChaCha20-Poly1305, under a page key of 32 random
 * bytes. Name, owner, type, length and how often the file was replaced are
 * authenticated with it. The page key is in a page of its own. If that page
 * cannot be locked, and kept out of core dumps and forked children, no key is
 * kept, and a warning says so. (Systems other than Linux are only asked to lock
 * it.) A kept key expires cache_seconds after KMS's reply came, even if it was
 * fetched again meanwhile. hooks.ticks_ms measures this time; if it goes
 * backwards, all kept keys expire at the next fetch. (The built-in clock stands
 * still while the machine sleeps.) An expired key is not given out any more. No
 * thread wakes up to wipe it: the next fetch of any key does, and if no key is
 * left, it wipes the page key, too. All keys and the page key are wiped by
 * kaws_remove, kaws_rewrap_all, kaws_close, a kaws_refresh that finds more than
 * additions, and a change of the KMS key, the region or cache_seconds. They are
 * also wiped if KMS refuses any request because a right has ended:
 * AccessDenied, NotAuthorized, Disabled, KMSInvalidState, NotFound. If KMS was
 * asked for a key before one of these events, and sends it after the event, the
 * key is not kept. If credentials expire or are replaced, no key is wiped. If
 * threads fetch the same key at once, one of them asks KMS, and the others
 * wait, each up to its own timeout_ms. If KMS fails, all of them fail. If the
 * thread that asks is cancelled, or its time is up first, another one asks. A
 * thread that comes after kaws_reload_creds waits for none that asked before
 * it. Without a cache each thread asks KMS itself, because handing a plaintext
 * on would mean keeping it.
 *
 * Plaintext passes through libcurl and the TLS library. We overwrite libcurl's
 * buffers, and tell OpenSSL to wipe its own; other TLS libraries cannot be
 * told. After each operation tests/test_secrets.py searches the memory of a
 * whole process, with the real libcurl and OpenSSL, for secrets. The test
 * program is linked with -z now, because otherwise the dynamic linker saves
 * registers on the stack when a function is called for the first time, and
 * registers may hold pieces of a key. We cannot promise that registers, the
 * kernel's buffers or a debugger hold no copy, nor that libcurl wipes all
 * memory that it frees: it may leave a piece of a key after a transfer that
 * failed, and of the session token, of a web identity's token, or of a proxy's
 * user and password, after any transfer. (The ring needs config.proxy as it is,
 * so that stays in ordinary memory until the ring is closed.)
 *
 *
 * 6  THREADS, PROCESSES
 *
 * Any number of threads may use a ring. A walk, a key or an error belongs to
 * one thread. We leave SIGPIPE alone; with an old libcurl, ignore it. A calling
 * thread needs 64 KiB of stack.
 *
 * Processes may share a data file: the second gets a warning when it opens the
 * file, and they take turns to change it. If one adds keys, the others read
 * them in by themselves, but only before they change the file or answer that a
 * name is not there; until then a walk and the stats do not show these keys. So
 * processes that only add keys never disturb each other. If one removes keys or
 * re-wraps them, the others go on fetching what they know. They answer
 * KAWS_CHANGED to every change, and to a fetch of a name that they do not know,
 * until the program calls kaws_refresh. To read in what others changed, a ring
 * reads the whole file. If nobody changed anything, it only looks at the file's
 * state.
 *
 * A ring belongs to the process that opened it. In a child process made by
 * fork() every function answers CONFIG, except kaws_close: there it frees
 * memory and closes files, but writes nothing, and says nothing to AWS KMS. The
 * child may open a ring of its own. If hooks.memory has a lock of its own that
 * another thread held during fork(), kaws_close hangs in the child.
 *
 * A thread cannot be cancelled (pthread_cancel) while it is in a call: it
 * finishes the call first, and the thread's cancellation state is then as
 * before. A cancelled call would leave its locks locked and its keys unwiped.
 *
 * Two processes exclude each other even if they reach the data file by
 * different names (hard links, or a mount of that one file), because we lock
 * two files: first <data_file>.lock, then the data file itself. A thread that
 * waits for these locks delays no reader of the ring. It gives up with LOCKED
 * after it waited 2 seconds for another process, or 10 seconds in which no
 * other thread of the ring made progress.
 *
 * Inside a process there are the locks listed here. A thread that holds one of
 * them takes only locks that stand further down in the list. (In the thread
 * tests a thread that breaks this order aborts: tests/unit/lock_order.h.)
 *
 *     SETTINGS   ring      one change of the KMS key or region at a time
 *     REWRAP     rewrap    whether a re-wrap is running, and its progress
 *     TURN       vault     one change of the data file at a time; a thread
 *                          holds it while it waits for other processes
 *     VAULT      vault     the table and the file: no thread that holds it
 *                          waits for AWS or for another process
 *     SHIELD     shield    the keys that are kept, and who waits for one
 *     SCOUT      scout     whether its thread runs
 *     TRUST      trust     the current KMS key, and the trusted accounts
 *     CALLS      op        the clock's offset, the counters, who answers
 *     BREAKER    breaker   which hosts do not answer; it belongs to the process
 *     SOURCE     creds     one thread at a time asks for new credentials
 *     CREDS      creds     the credentials, and their generation
 *     HTTP       http      the request ids that have been seen
 *     SENDER     curl      the built-in sender's connections
 *     WAITERS    thread    inside SETTINGS, TURN and SOURCE: who waits for it
 *
 * The ring starts threads of its own in two cases: kaws_rewrap_all has helpers
 * until it returns, and with config.failover_regions there is the scout
 * (section 8.1), which may run between calls. Signals are blocked in them.
 *
 * The locks on files belong to the open file (F_OFD_SETLK). Systems without
 * F_OFD_SETLK use flock() instead. flock() cannot tell who else has the file
 * open, so the second process gets no warning; it does not exclude processes
 * that use F_OFD_SETLK; and on a network file system it may exclude only
 * processes on one machine. Windows locks <data_file>.lock only, so a process
 * that uses another name for the file is not excluded. No lock excludes a
 * process whose access to the file bypasses the file system's locks, as is
 * possible with FUSE, or with NFS mounted with nolock.
 *
 *
 * 7  THE DATA FILE
 *
 * The entries stand in the file oldest first, and nothing else in the file
 * depends on its history. Numbers are little-endian. Each digest is the SHA-256
 * of ALL bytes of the file before it, with the 16 bytes of the committed length
 * taken as zeros. So the last 32 bytes are the checksum of the keyring, and
 * adding an entry hashes only that entry.
 *
 *     header    0   8  "KAWSRING"
 *               8   4  format version: 1
 *              12   4  epoch: 0 in a new file; otherwise copied unchanged
 *              16  16  file id: random; every blob is bound to it
 *              32  16  committed length: 8 the length
 *                                        8 the first bytes of
 *                                          SHA-256(file id, the length)
 *              48  32  digest
 *     record    0   4  n: length of the record without its digest
 *               4   4  n's complement
 *               8   1  version of the encryption context's rule: 1
 *               9   1  length of the type         (t)
 *              10   1  length of the key id       (k)
 *              11   1  length of the user id      (u)
 *              12   2  length of the plaintext
 *              14   2  length of the KMS key ARN  (a)
 *              16   2  length of the blob         (b)
 *              18   2  length of the key material id, 0 if unknown  (m)
 *              20   4  0
 *              24   8  time of creation: Unix seconds
 *              32      key id (k)  user id (u)  type (t)  ARN (a)
 *                      key material id (m)  blob (b)
 *               n  32  digest
 *
 * To add a key, we append its record with one write and one sync. Before that,
 * we set the committed length to the length that is already durable; this write
 * needs no sync of its own. Replacing, closing and opening the file set it to
 * the file's length. So a file that was cut short is refused. Only bytes that
 * were never acknowledged can count as a torn end: they lie beyond the
 * committed length, and the record is shorter than its own length says, or
 * contains an all-zero sector. Any other mismatch is damage. A torn end is
 * moved to <data_file>.torn-<time>, a name up to 25 bytes longer than the data
 * file's. If the disk has no room to copy it, or none to overwrite a byte
 * (btrfs and ZFS write a copy), the keyring opens all the same but refuses
 * every change until there is room. To remove a key, or to re-wrap, we write
 * <data_file>.tmp and rename it. <data_file>.lock is only locked, and stays.
 *
 * Before each change, the path must still name the file that the ring left,
 * with the same device, inode, size, times and last 32 bytes. If only the times
 * differ (after chmod, or a restored label), we read the whole file again, and
 * its digest decides. If the size or the inode differs, the file may have been
 * extended: if it begins with exactly the bytes that the ring knows, and the
 * digests of all that follows are right, we make the new bytes durable and go
 * on from there. It does not matter who added them, or whether the file is a
 * copy. To replace the file, we exchange its name with that of <data_file>.tmp,
 * and then look at the file that is now <data_file>.tmp: if it is not the one
 * that the ring knows, we exchange them back. A new data file never replaces
 * another. A data file that has a second hard link, or that is itself a mount
 * point, accepts new keys but cannot be replaced. So opening it logs a warning,
 * and removing and re-wrapping fail.
 *
 * Some risks remain. If the file system cannot exchange names (outside Linux,
 * on NFS and some others), a file that is moved to the path right before our
 * rename is lost. If it has no hard links either, a file that appears right
 * before we create a keyring is lost, too. An edit in place goes unnoticed if
 * it happens while we write, or within the resolution of the file system's
 * timestamps. If the power fails before we exchange a foreign file back, that
 * file is <data_file>.tmp, which the next change removes.
 *
 * No file can prove that it is the newest, and no entry can. The digests find
 * damage, but they need no secret: anyone who can write the file can make new
 * ones. Someone who has an older copy can put it in the file's place. Or he can
 * add single entries of the copy to the newest file: entries that have been
 * removed since, or entries from before a re-wrap. He can also leave out
 * entries. He cannot change an entry's name, type or key. While a ring is open,
 * its next change finds such an edit (KAWS_CHANGED). An edit made while no
 * process has the file open shows only in the log: opening the file, and each
 * change, logs a note with the number of keys and the first bytes of the
 * checksum. The note of an opening should show the same two values as the note
 * before it. If someone only adds entries to the file of an open ring, that
 * counts as done by another process, and is logged in such a note. A refresh
 * reads in whatever is there, as an opening does, and logs the number and the
 * checksum before and after. Removing a key does not remove it from older
 * copies of the file. Only deleting the KMS key does.
 *
 * A sealed value that needs no data file has a format of its own, which
 * kaws_sealed_pack writes. Its numbers are little-endian, too:
 *
 *               0   8  "KAWSSEAL"
 *               8   2  format version: 1
 *              10   2  length of the KMS key ARN  (a)
 *              12   2  length of the key material id, 0 if unknown  (m)
 *              14   2  length of the blob  (b)
 *              16      ARN (a)  key material id (m)  blob (b)
 *
 *
 * 8  WHAT GOES OVER THE WIRE
 *
 *     kaws_generate        GenerateDataKeyWithoutPlaintext
 *     kaws_store           Encrypt, then Decrypt of the new blob
 *     kaws_fetch           Decrypt, pinned to the KMS key in the entry (while
 *                          the own account is unknown: see the last paragraph)
 *     kaws_check           GenerateDataKeyWithoutPlaintext of one byte, then
 *                          Decrypt of it as a dry run
 *     kaws_rewrap_all      ReEncrypt (across regions Decrypt, Encrypt and
 *                          Decrypt again), then Decrypt of the new blob as a
 *                          dry run
 *     kaws_rotate_kms_key  GenerateDataKeyWithoutPlaintext of one byte, before
 *                          and after; RotateKeyOnDemand between
 *
 * We speak HTTPS only, with TLS 1.2 or newer, verify certificates, and follow
 * no redirect. Plain HTTP is allowed to this machine alone (and, to ask for
 * credentials, to the addresses in section 4.1). If the KMS key is given as an
 * ARN, requests go to the region in the ARN. The built-in sender takes its
 * proxy from the environment, as libcurl does for HTTPS (https_proxy,
 * all_proxy, no_proxy). It takes no CA file from there: use ca_file.
 *
 * If config.proxy is set, it is the proxy for all requests to AWS KMS and AWS
 * STS over HTTPS, and none of these variables counts, not even no_proxy. Its
 * form is [scheme://][user[:password]@]host[:port]. The scheme is http, which
 * is the default, https, socks4, socks4a, socks5 or socks5h. In a password
 * write / ? # @ % and blanks as %2F %3F %23 %40 %25 %20. kaws_open refuses any
 * other form, and also a proxy beside hooks.send (CONFIG): a hook has a proxy
 * of its own, or none. No error and no log line shows the user or the password.
 * If a request through it gets no reply, the error says "through the proxy",
 * and then what libcurl says. The certificate of an https proxy must come from
 * one of libcurl's CAs: ca_file is not for it.
 *
 * Room arn has the rules for the hosts of all partitions of AWS. config.fips
 * and config.dualstack choose among the hosts that AWS KMS and AWS STS have in
 * a region:
 *
 *     neither      kms.eu-west-1.amazonaws.com
 *     fips         kms-fips.eu-west-1.amazonaws.com
 *     dualstack    kms.eu-west-1.api.aws
 *     both         kms-fips.eu-west-1.api.aws
 *
 * With config.auth = "native", AWS_USE_FIPS_ENDPOINT and
 * AWS_USE_DUALSTACK_ENDPOINT (true or false, in any case) switch them on, too.
 * If AWS has no FIPS host in a region, the request goes to the name that it
 * would have all the same, and never to another host; a warning (KAWS-166)
 * names the region. A host changes nothing about the region that a request is
 * signed for. Nor does an endpoint that is set. It is used as it is, whatever
 * the switches say; with fips, a warning (KAWS-167) says that, too.
 *
 * We choose neither ciphers nor the groups of the key exchange: the TLS library
 * and the host agree on them. So OpenSSL 3.5 and later use the hybrid group
 * X25519MLKEM768 with hosts that have it, as those of AWS KMS do. When a host
 * first answers a ring, the built-in sender logs a note (KAWS-168): the host,
 * the TLS version, and the group. If libcurl does not use OpenSSL, the note has
 * neither version nor group; before OpenSSL 3.0 it has no group.
 *
 * HTTP/1.1 matches replies to requests only by their order on a connection. If
 * a proxy or load balancer sent one reply too many, every later request would
 * get the answer to the one before. So we reuse a connection only if its last
 * exchange was clean and nothing has arrived on it since. An exchange is clean
 * if the reply is complete, fits the request, has a new request id, and is a
 * 200 or a 4xx that is KMS's own error.
 *
 * We also verify each blob before we acknowledge it or let it replace another.
 * A stored key's blob is decrypted and compared with the key. A re-wrapped blob
 * is verified in a dry run: KMS must answer with the error that means that it
 * could decrypt the blob under the key's name. (A KMS that does not know dry
 * runs decrypts it; we then ask once more, over a new connection, and log a
 * note.) No two re-wrapped blobs may be equal. A generated key is not verified,
 * because a key that nobody has fetched yet protects nothing: if its reply
 * belonged to another request, its first fetch fails with MISMATCH, and it can
 * only be removed.
 *
 * Two risks remain. A peer that TLS trusts can forge a whole reply with a new
 * request id. Or it can send one between our look at the connection and the
 * true reply; if the next requests follow before the true reply is there, their
 * replies are mixed up as well. A fetch believes such a reply; so does a
 * re-wrap, if KMS can decrypt the blob in it under the key's name.
 *
 * Each blob is bound to an encryption context. KMS decrypts the blob only if we
 * send the same context again: app = "keyring_aws", file = the file id in hex,
 * key_id, key_type, and user_id if there is one. Values are percent-encoded
 * except for printable ASCII. CloudTrail shows the context, so names are not
 * secret there.
 *
 * An entry names the KMS key that sealed it, and an attacker may have written
 * the file. So we send no request for a KMS key unless its account is trusted:
 * it is the ring's own account, or it is in config.accounts. How we learn the
 * ring's own account depends on how the settings name its first KMS key:
 *
 *     by ARN      the ARN's account
 *     by id or    the account that KMS tells, if that account may be trusted:
 *     alias       it is in config.accounts; or, without config.accounts, it is
 *                 the account of an entry. If there is no entry either, any
 *                 account may be trusted; if there is a data file, we log the
 *                 account, because the file's keys will always need it.
 *     not at all  none, if config.accounts is set; otherwise the account of
 *                 the entries, if all have the same one; otherwise as above
 *
 * An id or alias belongs to the account of the credentials, and the conf file
 * may be open to an attacker. If that account is not the entries' account,
 * every call that seals fails with FOREIGN. To move to another account, name
 * the KMS key by its ARN, or list the accounts. The own account never changes
 * while the ring is open. An attacker can still choose it if neither an ARN nor
 * config.accounts is set, and he can write both the conf file and the data
 * file.
 *
 * If the first call of a ring is a fetch, the own account may be unknown. Then
 * Decrypt names the KMS key by its id or alias. KMS decrypts only if that is
 * the KMS key that sealed the blob, and its reply tells the account. If KMS
 * refuses, or its reply does not fit the entry, we ask it to seal a byte, which
 * tells the account as well, and then send the Decrypt that names the entry's
 * KMS key.
 *
 *
 * 8.1  A second region
 *
 * What one multi-region key seals, each key with the same id opens. So if its
 * own region does not answer, another one can. config.failover_regions lists
 * those regions, 8 at most, all in one partition, each perhaps with a URL:
 * "eu-central-1,us-east-2=https://host:port". If a region of the list has a
 * URL, all requests to KMS in that region go there; config.endpoint serves only
 * calls at home. Without a list, all calls go home, and none of this applies.
 *
 * The route of a call depends on its KMS key: the one that sealed the entry or,
 * for a call that seals, the current one. For a multi-region key it is home,
 * and then the other regions of the list, in their order. For any other KMS key
 * it is home alone: what that key sealed is still opened, but with a list it
 * cannot be the current KMS key (CONFIG).
 *
 * An alias belongs to one region, and only that region knows what it means. So
 * a call that names the KMS key by an alias goes home only, until KMS has
 * sealed something with it, and its reply has told what it means. (While the
 * own account is unknown, a fetch names the alias, too. It has a route all the
 * same, by the key id in the entry.) If the alias does not mean a multi-region
 * key, there is a warning, KAWS-175. If the list has no region but home, there
 * is one at the start, KAWS-176.
 *
 * A call goes home first. If that ends with NETWORK, THROTTLED or SERVICE, it
 * goes on to the next region of its route. It skips those whose host is known
 * to be unreachable (section 4). If none is left, and a probe is due, the call
 * is that probe. Otherwise it pauses, and begins again at home, as long as its
 * time and its attempts allow. All attempts count, but max_attempts keeps no
 * call from going on to the next region. If the first attempt in a region fails
 * within 0.5 s, that may be an accident, so a second one is made there. While a
 * later region of the route is well, an attempt may take connect_timeout_ms
 * plus 0.5 s, and no more than its share of the time that is left. So if home
 * hangs, the first call takes 1.5 s longer with the default timeouts, and the
 * next ones do not wait.
 *
 * The reply must name the KMS key that we asked for, with the region that we
 * asked, and nothing else may differ. Whichever region sealed a key, its entry
 * names home's ARN. So an entry has one home, and the data file does not change
 * its form.
 *
 * A refusal at home is an answer, and no other region is asked. A refusal
 * elsewhere is none, because a replica may be missing, disabled, have a policy
 * of its own, or lack material from the latest rotation. The same goes for
 * MISMATCH, and for a reply that makes no sense. The caller then gets home's
 * error, with what the other region said in its text. So no such refusal is
 * definite, and none wipes kept keys.
 *
 * Some things home does alone: it rotates the KMS key, it re-encrypts
 * (kaws_rewrap_all, kaws_kms_reencrypt), it accepts a new KMS key or region
 * (kaws_use and its relatives), and it tells what an alias means. While home is
 * away, these calls fail; all but the last say that no other region can help. A
 * re-wrap needs the home of every KMS key that sealed an entry.
 *
 * If the credentials come from AWS STS, a call at home asks it in the region of
 * the current KMS key, and a call in another region asks it there. If it cannot
 * be reached, the call goes on to the next region. But not with
 * config.sts_endpoint, because that serves one region only.
 *
 * No call should have to find out whether home is well again. A thread of the
 * ring does that: the scout. If a call goes past a region whose probe is due,
 * the scout starts when the call ends. It has KMS in that region seal a byte,
 * and ends. After the first call that home answers, and then once in 24 hours
 * of use, it also checks the other regions of the route: each seals a byte, and
 * says in a dry run whether it would open it. If one would not, there is a
 * warning, KAWS-173. If all would, there is a note, KAWS-174, but not again
 * until there was a warning. The scout uses the credentials that are there, and
 * asks no source for others. It may call any hook but creds, patience_ms and
 * cancelled. kaws_close tells it to end, and waits until it has ended: 0.1 s,
 * unless a hook or the system's resolver takes longer. A forked child does not
 * have it. If there is no thread (KEYRING_AWS_NO_THREADS, or the system gives
 * none), the call itself does the scout's work before it returns.
 *
 * stats.region_in_use is the region that answered last in place of a home that
 * was unreachable or, once home answers again, the current KMS key's home.
 * stats.failovers counts the requests that another region answered. The log
 * gets a warning when another region begins to answer (KAWS-170, at most one in
 * 10 s), and a note when home answers again (KAWS-171). If home is reachable,
 * but throttles, it stays the region in use, and the warning is KAWS-172, at
 * most one an hour. If KMS keys have different homes, the lines are about one
 * home at a time: the next one is told of when the first one answers again, or
 * when no other region has answered in its place for an hour.
 *
 *
 * 9  LIMITS
 *
 * A key id or user id has at most 255 bytes and no NUL. A generated key has at
 * most 1024 bytes, a stored key 4096; these limits are KMS's. Credentials have
 * at most 128 (id), 256 (secret) and 4096 (token) bytes, a CA file 16 MiB.
 * kaws_sign signs at most 64 headers and 64 query parameters, and presigns for
 * a week at most.
 *
 * Neither the format nor the library limits the number of keys. But a ring
 * keeps the whole data file in memory, and that takes about 500 bytes a key (an
 * entry has at most 7052). We do not trust the size of the file alone: before
 * we allocate more than 1 MiB (256 MiB, if the file has no holes), we follow
 * the lengths of its entries, and they must lead to its end. So a file that is
 * merely long, with a terabyte of zeros behind its entries, is refused at once:
 * CORRUPT. The zeros do not count as a torn end, and we leave the file as it
 * is.
 *
 * The built-in sender needs libcurl 7.54, and is tested with OpenSSL as the TLS
 * library. It reads at most 64 KiB of a reply's header lines. KMS keys in
 * custom key stores cannot make data keys. On Windows the library passes its
 * unit tests under wine; the plugin is untested there. macOS is untested.
 *
 *
 * 10  RECIPES
 *
 * Code to copy. tests/test_recipes.py cuts it out of this page, compiles it and
 * runs it. It includes this header, <stdio.h>, <stdlib.h> and <string.h>. One
 * C file of the program has the implementation (section 3).
 *
 *
 * 10.1  Envelope encryption of a file
 *
 * KMS encrypts 4096 bytes at most. So it makes a data key, the program encrypts
 * the file with that, and the sealed data key goes in front. The cipher comes
 * from BearSSL, so include <bearssl.h> as well. The ring needs no data file.
 * Its KMS key is named by an ARN: then the right to kms:Decrypt is enough to
 * decrypt.
 *
 *     #define ENVELOPE (2 + KAWS_SEALED_PACKED_MAX + 16)
 *
 *     static const uint8_t nonce[12];
 *
 *     static kaws_status
 *     encrypt_file(kaws *ring, const char *path, kaws_bytes text,
 *                  uint8_t *file, size_t *len, kaws_error *err)
 *     {
 *         kaws_pair pair = { "path", path };
 *         kaws_context ctx = { &pair, 1 };
 *         size_t n = KAWS_SEALED_PACKED_MAX;
 *         uint8_t key[32], *tag;
 *         kaws_sealed sealed;
 *
 *         *len = 0;
 *         if (!kaws_kms_generate_data_key(ring, &ctx, sizeof key, key,
 *                                         &sealed, err) &&
 *             !kaws_sealed_pack(&sealed, file + 2, &n, err)) {
 *             file[0] = (uint8_t)n;
 *             file[1] = (uint8_t)(n >> 8);
 *             tag = file + 2 + n;
 *             memcpy(tag + 16, text.at, text.len);
 *             br_poly1305_ctmul_run(key, nonce, tag + 16, text.len, file,
 *                                   2 + n, tag, br_chacha20_ct_run, 1);
 *             *len = 2 + n + 16 + text.len;
 *         }
 *         kaws_wipe(key, sizeof key);
 *         return err->status;
 *     }
 *
 *     static kaws_status
 *     decrypt_file(kaws *ring, const char *path, uint8_t *file, size_t len,
 *                  kaws_bytes *text, kaws_error *err)
 *     {
 *         kaws_pair pair = { "path", path };
 *         kaws_context ctx = { &pair, 1 };
 *         size_t n = len < 2 ? len : file[0] + 256u * file[1];
 *         size_t front = 2 + n + 16, key_len = 32, wrong = len < front, i;
 *         uint8_t key[32], tag[16];
 *         kaws_sealed sealed;
 *
 *         *text = (kaws_bytes){ file, 0 };
 *         if (!wrong) {
 *             kaws_bytes packed = { file + 2, n };
 *             if (kaws_sealed_unpack(packed, &sealed, err) ||
 *                 kaws_kms_decrypt(ring, &ctx, &sealed, key, &key_len, err))
 *                 return err->status;
 *             *text = (kaws_bytes){ file + front, len - front };
 *             br_poly1305_ctmul_run(key, nonce, file + front, text->len, file,
 *                                   2 + n, tag, br_chacha20_ct_run, 0);
 *             kaws_wipe(key, sizeof key);
 *             for (i = 0; i < sizeof tag; i++)
 *                 wrong |= tag[i] ^ file[2 + n + i];
 *         }
 *         if (wrong) {
 *             kaws_wipe(file, len);
 *             *text = (kaws_bytes){ file, 0 };
 *             *err = (kaws_error){ .status = KAWS_CORRUPT,
 *                                  .text = "the encrypted file is damaged" };
 *         }
 *         return err->status;
 *     }
 *
 * The buffer `file` has room for text.len + ENVELOPE bytes. decrypt_file
 * decrypts in it: *text is a part of it. The whole file is in memory, because
 * its text counts only once the tag is checked. All nonces are zero. That is
 * safe because each data key encrypts one text only. To change a file, encrypt
 * it again. The tag protects what is in front, too, and the context binds the
 * data key to the path. An older version of the same file is accepted.
 *
 *
 * 10.2  Key rotation in a long-lived service
 *
 * The id of a key holds a version or a date: "orders-2026-11". Keep the id with
 * all that the key encrypts: then old keys are found as long as they are
 * needed. One thread rotates; the others can go on fetching.
 *
 *     enum verdict { DONE, LATER, REFRESH, ASK };
 *
 *     static enum verdict
 *     rotate(kaws *ring, const char *kms_key, const char *next,
 *            kaws_error *err)
 *     {
 *         kaws_name name = { next, "" };
 *
 *         if (!kaws_reload_creds(ring, err) &&
 *             !kaws_use_kms_key(ring, kms_key, err) &&
 *             (!kaws_generate(ring, name, "AES", 32, err) ||
 *              err->status == KAWS_EXISTS))
 *             (void)kaws_rewrap_all(ring, err);
 *         switch (err->status) {
 *         case KAWS_OK:
 *             return DONE;
 *         case KAWS_NETWORK: case KAWS_THROTTLED: case KAWS_SERVICE:
 *         case KAWS_REPLY: case KAWS_LOCKED: case KAWS_RUNNING:
 *             return LATER;
 *         case KAWS_CHANGED: case KAWS_UNCERTAIN:
 *             return REFRESH;
 *         default:
 *             return ASK;
 *         }
 *     }
 *
 * DONE: fetch the next key once, and encrypt with it from now on. LATER: call
 * rotate() again in a minute. A step that was done is done again, which does no
 * harm. REFRESH: another process changed the file, or the disk failed. Fetches
 * go on as before. Find out what happened, and put the right file back if it
 * was replaced; then call kaws_refresh(), and rotate() again. ASK: log
 * err->text for a person to read. Trying again would not help. From now on, the
 * config must name the new KMS key at every start.
 *
 *
 * 10.3  A client that only seals, a server that only opens
 *
 * The client needs the right to kms:Encrypt, and no data file. The packed bytes
 * may go over any wire. The server needs the right to kms:Decrypt. Its config
 * names no KMS key, because the packed bytes name the one that sealed them. But
 * anyone may have sent them, so `accounts` lists whose KMS keys are trusted.
 *
 *     static const kaws_config client = {
 *         .kms_key_id = "arn:aws:kms:eu-west-1:111122223333:alias/mail",
 *         .conf_file  = "client.conf"
 *     };
 *     static const kaws_config server = {
 *         .accounts   = "111122223333",
 *         .conf_file  = "server.conf"
 *     };
 *
 *     static kaws_status
 *     client_seal(kaws *ring, const char *from, kaws_bytes secret,
 *                 uint8_t *packed, size_t *len, kaws_error *err)
 *     {
 *         kaws_pair pair = { "from", from };
 *         kaws_context ctx = { &pair, 1 };
 *         kaws_sealed sealed;
 *
 *         if (kaws_kms_encrypt(ring, &ctx, secret, &sealed, err))
 *             return err->status;
 *         return kaws_sealed_pack(&sealed, packed, len, err);
 *     }
 *
 *     static kaws_status
 *     server_open(kaws *ring, const char *from, kaws_bytes packed,
 *                 uint8_t *secret, size_t *len, kaws_error *err)
 *     {
 *         kaws_pair pair = { "from", from };
 *         kaws_context ctx = { &pair, 1 };
 *         kaws_sealed sealed;
 *
 *         if (kaws_sealed_unpack(packed, &sealed, err))
 *             return err->status;
 *         return kaws_kms_decrypt(ring, &ctx, &sealed, secret, len, err);
 *     }
 *
 * *len is the size of the buffer before the call: KAWS_SEALED_PACKED_MAX bytes
 * hold any packed value, KAWS_PLAIN_MAX any secret. Wipe the secret after use.
 * The context proves who sealed it only if the policy of each client allows one
 * `from`: the condition is kms:EncryptionContext:from.
 *
 *
 * 10.4  Use without libcurl
 *
 * Compile the implementation with -DKEYRING_AWS_NO_CURL. Set config.hooks.send
 * to my_send. The other names that begin with my_ are your own HTTPS client's.
 *
 *     typedef struct my_reply {
 *         int         status;
 *         uint8_t    *body;
 *         size_t      len;
 *         char        head[4096];
 *         const char *error;
 *     } my_reply;
 *
 *     int  my_https_post(const kaws_request *q, my_reply *got);
 *     void my_forget(my_reply *got);
 *
 *     static int
 *     my_send(void *ctx, const kaws_request *q, kaws_reply *r)
 *     {
 *         my_reply got = { .error = "my_send sends POST only" };
 *         const char *line;
 *         size_t len;
 *
 *         (void)ctx;
 *         if (q->method != NULL || my_https_post(q, &got) != 0) {
 *             (void)snprintf(r->text, sizeof r->text, "%s", got.error);
 *             return 1;
 *         }
 *         r->http = got.status;
 *         for (line = got.head; *line != '\0'; line += len) {
 *             len = strcspn(line, "\n");
 *             len += line[len] == '\n';
 *             kaws_reply_line(r, line, len);
 *         }
 *         r->body_len = got.len;
 *         if (got.len <= r->body_max)
 *             memcpy(r->body, got.body, got.len);
 *         my_forget(&got);
 *         return 0;
 *     }
 *
 * my_https_post sends one POST to q->url, never a second, with the lines of
 * q->headers, a Content-Length and q->body. It returns 0 only with a whole
 * reply; otherwise got->error says why. It keeps both timeouts, asks
 * q->cancelled, verifies the certificate, and follows no redirect. Several
 * threads may call it at once. If it opens a connection for each request, no
 * reply can belong to another request; otherwise do what hooks.send says.
 * got->head has the lines of the reply's head. Both bodies may hold a key: copy
 * q->body nowhere, and let my_forget wipe the reply.
 *
 *
 * 10.5  Use without threads
 *
 * Compile the implementation with -DKEYRING_AWS_NO_THREADS. The names that
 * begin with my_ are your event loop's. The loop would stand still while a call
 * waits for KMS, so the hook `cancelled` turns it, at least every 100 ms.
 *
 *     typedef struct my_loop my_loop;
 *
 *     void        my_turn(my_loop *loop, int wait);
 *     int         my_quit(my_loop *loop);
 *     const char *my_next(my_loop *loop);
 *     void        my_answer(my_loop *loop, const kaws_key *key,
 *                           const kaws_error *err);
 *
 *     static int
 *     while_waiting(void *loop)
 *     {
 *         my_turn(loop, 0);
 *         return my_quit(loop);
 *     }
 *
 *     static int
 *     run(my_loop *loop)
 *     {
 *         kaws_config cfg = { .data_file  = "keys.kaws",
 *                             .kms_key_id = "alias/app",
 *                             .region     = "eu-west-1",
 *                             .conf_file  = "keys.conf",
 *                             .hooks = { .ctx = loop,
 *                                        .cancelled = while_waiting } };
 *         kaws_name name = { NULL, "" };
 *         kaws_error err;
 *         kaws_key key;
 *         kaws *ring;
 *
 *         if (kaws_open(&ring, &cfg, &err))
 *             return fprintf(stderr, "%s\n", err.text), 1;
 *         while (!my_quit(loop)) {
 *             if ((name.key_id = my_next(loop)) == NULL) {
 *                 my_turn(loop, 1);
 *                 continue;
 *             }
 *             (void)kaws_fetch(ring, name, &key, &err);
 *             my_answer(loop, &key, &err);
 *             kaws_key_free(ring, &key);
 *         }
 *         kaws_close(ring);
 *         return 0;
 *     }
 *
 * my_turn serves the events that are there; with `wait` it first waits for one.
 * It never calls the ring, because it may run inside a call of the ring: it
 * puts each request that needs a key into a queue. my_next takes a key id out
 * of the queue; the string stays valid until my_answer is called. my_quit says
 * whether the program should end. If a call is waiting then, it ends, too:
 * CANCELLED.
 *
 *
 * 11  HOUSE RULES  for developers of this file
 *
 * C99, 80 columns, 4 spaces. A private function is kaws__<room>_<verb>: its
 * name says where it is. Calls go up the file only. A function should have at
 * most 40 lines, and must not have more than 60. #if is used only in the rooms
 * that talk to the system, and around the built-in sender. The function that
 * knows most about an error fills it, once. A function that holds a secret has
 * one exit, which wipes it. A comment says why. `make check` checks what a
 * script can check; `make test` checks the rest.
 */

/* Feature macros for the implementation. They ask the first system header to
 * hide nothing. If one came before, see room lobby. */
#if defined(KEYRING_AWS_IMPLEMENTATION)
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#if !defined(_FILE_OFFSET_BITS)
#define _FILE_OFFSET_BITS 64
#endif
#endif

#if !defined(KEYRING_AWS_H)
#define KEYRING_AWS_H

/* ##########################################################################
 *
 *  PART II     DECLARATIONS
 *
 *  In the order in which a user needs them.
 *
 * ##########################################################################
 */

#include <stddef.h>
#include <stdint.h>

#define KAWS_VERSION "1.0.0"

/* The linkage of the functions: KEYRING_AWS_STATIC makes them private to the C
 * file that includes the implementation. */
#if defined(KEYRING_AWS_STATIC) && defined(__GNUC__)
#define KAWS_API static __attribute__((unused))
#elif defined(KEYRING_AWS_STATIC)
#define KAWS_API static
#else
#define KAWS_API extern
#define KAWS__EXTERN
#endif

#if defined(__cplusplus)
extern "C" {
#endif

#define KAWS_NAME_MAX      255    /* bytes of a key id or user id             */
#define KAWS_PLAIN_MAX    4096    /* bytes of a stored key: KMS's limit       */
#define KAWS_GENERATE_MAX 1024    /* bytes of a generated key: KMS's limit    */

/* ---- results: one word for what happened ------------------------------- */

#define KAWS_STATUSES(X)                                                      \
    X(OK,          "ok")                                                      \
    X(NOT_FOUND,   "no key of that name")                                     \
    X(EXISTS,      "a key of that name is already there")                     \
    X(ARGUMENT,    "bad argument")                                            \
    X(CONFIG,      "bad or missing setting")                                  \
    X(MEMORY,      "out of memory")                                           \
    X(RANDOM,      "the system provided no random bytes")                     \
    X(FILE,        "the data file could not be read or written")              \
    X(CORRUPT,     "the data file is damaged")                                \
    X(CHANGED,     "the data file is not the one this keyring wrote")         \
    X(LOCKED,      "another process is changing the data file")               \
    X(UNCERTAIN,   "the disk failed mid-change: refresh or reopen first")     \
    X(CREDENTIALS, "there are no credentials that AWS accepts")               \
    X(DENIED,      "AWS KMS does not allow it")                               \
    X(KMS_KEY,     "AWS KMS does not know or cannot use that KMS key")        \
    X(FOREIGN,     "the KMS key belongs to an account that is not trusted")   \
    X(MISMATCH,    "the blob was sealed for something else")                  \
    X(NETWORK,     "AWS KMS could not be reached")                            \
    X(THROTTLED,   "AWS KMS throttled every attempt")                         \
    X(SERVICE,     "AWS KMS reported an error")                               \
    X(REPLY,       "the reply from AWS KMS makes no sense")                   \
    X(RUNNING,     "a re-wrap is already running")                            \
    X(CANCELLED,   "the caller cancelled it")

#define KAWS__STATUS_NAME(name, text) KAWS_##name,

typedef enum kaws_status {
    KAWS_STATUSES(KAWS__STATUS_NAME)
    KAWS_STATUS_COUNT
} kaws_status;

/* What went wrong, in the caller's own memory. For every function below: `err`
 * may be NULL; the function fills it on failure and empties it on success. */
typedef struct kaws_error {
    kaws_status status;
    int  http;                    /* HTTP status of the last reply, or 0      */
    int  os;                      /* errno of the failed call, or 0           */
    char aws[64];                 /* AWS's error type: "NotFoundException"    */
    char request_id[64];          /* AWS's request id, for a support case     */
    char text[512];               /* one line for a log, without secrets      */
} kaws_error;

/* ---- settings: zero means default -------------------------------------- */

/* Borrowed bytes: the owner keeps them alive while the call lasts. */
typedef struct kaws_bytes {
    const uint8_t *at;
    size_t         len;
} kaws_bytes;

/* A request for the `send` hook. The hook borrows it for the time of the call.
 * It sends all `headers`, and adds only Content-Length and, if it likes,
 * Connection. POST and PUT have a body, which may be empty; GET and HEAD have
 * none. The body may hold a key, so the hook must not copy it elsewhere. */
typedef struct kaws_request {
    const char *url;              /* if it begins with http:, use no proxy    */
    const char *const *headers;   /* "name: value" lines, NULL at the end     */
    kaws_bytes  body;
    int         connect_timeout_ms, timeout_ms;
    int         fresh_connection; /* use a new connection, send once only     */

    /* If it is not NULL: ask it at least every 100 ms. 1: give up. */
    int       (*cancelled)(void *arg);
    void       *cancelled_arg;

    const char *method;           /* "GET", "HEAD" or "PUT"; NULL: "POST"     */
    int         direct;           /* 1: use no proxy                          */
} kaws_request;

/* A header of the reply whose value we want. */
typedef struct kaws_header {
    const char *name;             /* in any case                              */
    /* 1: `value` has it. 0: the reply does not have it. -1: it cannot be used,
     * because it came twice, in pieces, too long or not in printable ASCII;
     * `value` is "". */
    int         found;
    char        value[256];
} kaws_header;

/* What the hook fills in. Before the call, every member is 0, except body,
 * body_max, headers, header_count, and retry_after_ms, which is -1. If the body
 * does not fit, the hook sets body_len to any value above body_max. A reply to
 * HEAD has no body, whatever its Content-Length says. */
typedef struct kaws_reply {
    int      http;                /* HTTP status; 0 if no reply came          */
    uint8_t *body;                /* our buffer of body_max bytes             */
    size_t   body_len, body_max;
    int64_t  date;                /* Unix seconds of the Date header, or 0    */
    int      retry_after_ms;      /* x-amz-retry-after, or -1                 */
    char     request_id[64];      /* x-amzn-RequestId                         */
    char     text[128];           /* the transport's own words if it failed   */

    kaws_header *headers;         /* ours; filled by kaws_reply_line alone    */
    size_t   header_count;
} kaws_reply;

/* For a `send` hook: fills in date, retry_after_ms, request_id and headers. The
 * hook calls it with each line of the reply's head, the first one too:
 * "HTTP/1.1 200 OK", then "ETag: \"1b2c\"". The line has `len` bytes, with or
 * without the end of the line. If the first head was an interim one (1xx), a
 * second head follows; the hook passes its lines, too, and they replace the
 * first head. The hook leaves out the trailer of a chunked body. (An older hook
 * fills in date, retry_after_ms and request_id itself. That still works with
 * AWS KMS, because for KMS no headers are wanted.) */
KAWS_API void kaws_reply_line(kaws_reply *r, const char *line, size_t len);

/* AWS credentials. */
typedef struct kaws_creds {
    const char *id, *secret;
    const char *token;            /* session token; NULL: none                */
} kaws_creds;

/* What the `creds` hook is told, and what it fills in. */
typedef struct kaws_creds_wanted {
    int         refused;          /* 1: AWS refused the last ones             */
    int         timeout_ms;       /* what is left of the call's time          */
    int       (*cancelled)(void *arg);    /* as in kaws_request               */
    void       *cancelled_arg;

    kaws_creds  creds;            /* in the hook's memory: see hooks.creds    */
    int64_t     expires;          /* Unix seconds; 0: they do not expire      */
    char        text[128];        /* on failure: why; shown, so no secrets    */
} kaws_creds_wanted;

/* How the ring reaches the outside world, except files. Each hook can be
 * replaced separately. Any thread may call a hook, even those that the ring
 * starts (section 6), and several may do so at once (but not `creds`). We may
 * hold locks and secrets meanwhile. So a hook must return: it must not throw an
 * exception, longjmp() out, end the thread, or enable cancellation. Nor may it
 * call the ring. */
typedef struct kaws_hooks {
    void   *ctx;                  /* passed to every hook                     */

    /* ptr NULL: returns new_len bytes, aligned as malloc's, or NULL. new_len 0:
     * frees ptr, which has old_len bytes. There is no third case. */
    void *(*memory)(void *ctx, void *ptr, size_t old_len, size_t new_len);

    /* Unix milliseconds. Requests are signed with this time, and new entries
     * are dated by it. It may jump. */
    int64_t (*now_ms)(void *ctx);
    /* Milliseconds of a clock that nobody sets. It measures all durations. If
     * it jumps all the same, no wait gets longer than its timeout. */
    int64_t (*ticks_ms)(void *ctx);
    void  (*sleep_ms)(void *ctx, int ms);
    /* Bytes that nobody can guess: with a cache, keys are encrypted with them.
     * 0: success. */
    int   (*random)(void *ctx, void *out, size_t len);

    /* Sends a request. Returns 0 if *r holds a reply; otherwise r->text says
     * why there is none. The hook must respect the timeouts, verify the
     * server's certificate, and follow no redirect. Above all it must never
     * return a reply to another request: it must not reuse a connection on
     * which anything else has arrived, or whose last exchange was cut off. We
     * refuse a reply whose request id we have seen before: KAWS_REPLY. A hook
     * that cannot send q->method sends nothing, says so in r->text, and returns
     * 1. (All requests to AWS KMS are POST. If a hook sends POST for another
     * method, AWS refuses the request, because the method is signed.) With this
     * hook, config.ca_file is not looked at, and config.proxy must be NULL. */
    int   (*send)(void *ctx, const kaws_request *q, kaws_reply *r);

    /* Logs what no function returns to its caller. Level 1: warning, 2: note. A
     * line begins with its tag, such as [KAWS-123], which never changes. */
    void  (*log)(void *ctx, int level, const char *line);

    /* Returns for how many ms an operation may still wait for KMS (section 4);
     * INT_MIN: not even for another attempt. NULL: 0. We call it before each
     * pause. *err says what is wrong. */
    int   (*patience_ms)(void *ctx, const kaws_error *err);

    /* Returns 1 if the call that this thread is in should end; one 1 is enough.
     * The call ends with CANCELLED, and has changed nothing (except that the
     * KMS key may have been rotated). We ask at least every 100 ms while the
     * call waits: for a reply, for its next attempt, or for its turn to change
     * the file. A re-wrap also asks in the threads that it starts, and ends if
     * the hook returns 1 in one of them. NULL: no call is cancelled. */
    int   (*cancelled)(void *ctx);

    /* Gives the credentials, in place of all that config.auth means
     * (config.role_arn may follow): fills in w->creds and w->expires, and
     * returns 0; or says in w->text why it has none (the call fails with
     * CREDENTIALS). We ask before the first KMS request, before the credentials
     * expire, and if AWS refuses them: then w->refused is 1, and credentials
     * that the hook has kept are of no use (section 4). We copy the strings at
     * once; they must stay valid until the hook is called again, or the ring is
     * closed. No two threads call this hook at a time. NULL: what config.auth
     * means. */
    int   (*creds)(void *ctx, kaws_creds_wanted *w);
} kaws_hooks;

typedef struct kaws_config {
    const char *data_file;        /* NULL: no keyring, KMS calls only         */
    const char *kms_key_id;       /* id, ARN or alias; NULL: cannot seal      */
    const char *region;           /* of an id or alias; NULL: us-east-1       */
    const char *accounts;         /* trusted: "111122223333,..."; NULL: own
                                   * (the manual, section 8)                  */
    const char *conf_file;        /* holds the credentials (section 4); NULL:
                                   * none, or hooks.creds or auth has them    */
    const char *auth;             /* "file": the conf file; "native": see the
                                   * manual, section 4.1. NULL: "file"        */
    const char *profile;          /* for native; NULL: AWS_PROFILE's          */
    const char *config_file;      /* of profiles; NULL: AWS_CONFIG_FILE's     */
    const char *credentials_file; /* NULL: AWS_SHARED_CREDENTIALS_FILE's      */
    const char *role_arn;         /* of a role that the credentials assume    */
    const char *role_external_id;         /* NULL: none                       */
    const char *role_session_name;        /* NULL: keyring_aws                */
    const char *endpoint;         /* https://host[:port]; NULL: by region     */
    const char *sts_endpoint;     /* the same, for AWS STS                    */
    int         fips;             /* 1: FIPS hosts of KMS and STS; 0: not     */
    int         dualstack;        /* 1: their dual-stack hosts (IPv6); 0: not */
    const char *failover_regions; /* "eu-central-1,us-east-2=https://host" for
                                   * multi-region keys (section 8.1). NULL:
                                   * none                                     */
    const char *ca_file;          /* NULL: libcurl's                          */
    const char *proxy;            /* [scheme://][user[:password]@]host[:port]
                                   * for HTTPS (section 8), without
                                   * hooks.send; NULL: the environment's      */
    int         read_only;        /* 1: never change the data file            */
    int         must_exist;       /* 1: never make a new data file            */
    int         must_have_creds;  /* 1: do not open without credentials, unless
                                   * their source may recover (section 4.1)   */
    int         connect_timeout_ms;   /* 0: 1000                              */
    int         timeout_ms;       /* of an operation (section 4); 0: 10000    */
    int         max_attempts;     /* of a request; 0: see section 4           */
    int         rewrap_parallel;  /* requests at a time, up to 64; 0: 16      */
    int         cache_seconds;    /* see kaws_use_cache; 0: no key is kept    */
    kaws_hooks  hooks;            /* NULL members: the built-in hooks         */
} kaws_config;

/* ---- open and close ---------------------------------------------------- */

/* A ring: a keyring that is open, or AWS KMS alone. Any number of threads may
 * call any functions at once, except kaws_close, which must be the last call.
 * Each function below lists its statuses. Two are not repeated there: CONFIG in
 * a forked child (section 6), and CANCELLED if the call may wait. */
typedef struct kaws kaws;

/* Opens the keyring in cfg->data_file. If there is no such file, it creates an
 * empty keyring, and logs a warning, because an unmounted volume looks the
 * same. That is right only at the first opening. With must_exist or read_only,
 * a missing file is refused and nothing is created: FILE, and err->os is
 * ENOENT. It checks the whole file, sends no KMS request, and copies the config
 * with its strings. It reads the conf file, or asks the source that config.auth
 * means; if that fails, it logs a warning, and the first KMS request tries
 * again. With must_have_creds it also asks hooks.creds, if set, and fails if
 * there are no credentials, unless their source may recover (NETWORK, SERVICE:
 * section 4.1). *ring is NULL on failure; otherwise free it with kaws_close.
 * Without cfg->data_file there is no keyring: see "AWS KMS without a data file"
 * below.
 * ARGUMENT, CONFIG, CREDENTIALS, FILE, CORRUPT, CHANGED, LOCKED, UNCERTAIN,
 * MEMORY, RANDOM. */
KAWS_API kaws_status kaws_open(kaws **ring, const kaws_config *cfg,
                               kaws_error *err);

/* Has KMS seal one random byte, and asks in a dry run whether KMS would decrypt
 * it. So it tests the network, the credentials, the KMS key and the right to
 * use it both ways, and learns which KMS key an alias means. It makes two KMS
 * requests, or three if KMS does not know dry runs. Another region may answer
 * them (section 8.1), and then kaws_check succeeds. CONFIG (no KMS key is set),
 * FOREIGN, MEMORY, and the KMS errors: CREDENTIALS, DENIED, KMS_KEY, ARGUMENT
 * and CONFIG (the conf file is bad or missing, or libcurl cannot use the CA
 * file or the proxy) are definite; NETWORK, THROTTLED, SERVICE and REPLY may
 * pass. */
KAWS_API kaws_status kaws_check(kaws *ring, kaws_error *err);

/* Closes the ring; NULL is allowed. No other call may be running. With
 * config.failover_regions it waits for the scout to end (section 8.1). In a
 * forked child it closes the child's copy only (section 6), and what libcurl
 * has allocated stays allocated. */
KAWS_API void kaws_close(kaws *ring);

/* ---- keys -------------------------------------------------------------- */

/* A key's name. The key id has 1 to 255 bytes, the user id 0 to 255; no byte is
 * NUL. A user id of NULL is the same as "": the key has no owner. */
typedef struct kaws_name {
    const char *key_id, *user_id;
} kaws_name;

typedef struct kaws_key {
    char     type[16];
    uint8_t *bytes;               /* the caller's; free with kaws_key_free()  */
    size_t   len;
} kaws_key;

/* Has KMS make and seal a key of `len` bytes (1 to 1024), and stores its blob
 * under the name. The plaintext never leaves KMS. `type` has 1 to 15 letters,
 * digits, - and _, and is stored unchanged. One KMS request. On failure nothing
 * has changed, except after UNCERTAIN. ARGUMENT, CONFIG, EXISTS, FOREIGN, FILE,
 * CHANGED, LOCKED, UNCERTAIN, MEMORY, and the KMS errors (see kaws_check). */
KAWS_API kaws_status kaws_generate(kaws *ring, kaws_name name,
                                   const char *type, size_t len,
                                   kaws_error *err);

/* Has KMS seal the caller's key (1 to 4096 bytes), and stores the blob under
 * the name. Two KMS requests: the second decrypts the blob. If the result is
 * not the key, nothing is stored: REPLY. Without the right to kms:Decrypt, the
 * blob is stored unverified, and one warning is logged. Otherwise like
 * kaws_generate. */
KAWS_API kaws_status kaws_store(kaws *ring, kaws_name name, const char *type,
                                kaws_bytes plain, kaws_error *err);

/* Has KMS decrypt the key. One KMS request. If the ring does not know its own
 * account yet (the manual, section 8), and its KMS key is not the one that
 * sealed this key, one or two more requests come first, but only once; they
 * need the right to GenerateDataKeyWithoutPlaintext. If the ring does not have
 * the key, it first looks whether other processes added it (kaws_refresh), and
 * returns NOT_FOUND, without a KMS request, only if it is sure. On failure *key
 * is all zeros. ARGUMENT, CONFIG, NOT_FOUND, FOREIGN (the entry's KMS key
 * belongs to an account that is not trusted), MISMATCH (the blob was sealed for
 * another name, file or length), MEMORY, and the KMS errors. Also, for a key
 * that the ring does not have: FILE, CHANGED, LOCKED, UNCERTAIN. */
KAWS_API kaws_status kaws_fetch(kaws *ring, kaws_name name, kaws_key *key,
                                kaws_error *err);

/* Removes the key: replaces the file by one without it. No KMS request. On
 * failure nothing has changed, except after UNCERTAIN. ARGUMENT, CONFIG,
 * NOT_FOUND, FILE, CHANGED, LOCKED, UNCERTAIN, MEMORY. */
KAWS_API kaws_status kaws_remove(kaws *ring, kaws_name name, kaws_error *err);

/* Wipes and frees what kaws_fetch returned, even if that failed. Call it before
 * kaws_close, with the same ring. */
KAWS_API void kaws_key_free(kaws *ring, kaws_key *key);

/* ---- walking over the entries: a snapshot ------------------------------ */

typedef struct kaws_entry_info {
    kaws_name   name;             /* the walk owns what these point to        */
    const char *type;
    size_t      len;
    const char *kms_key_arn;
    int64_t     created;          /* Unix seconds                             */
} kaws_entry_info;

/* A walk belongs to one thread. It owns its memory, so it may outlive the ring,
 * but not the hooks. */
typedef struct kaws_walk kaws_walk;

/* Takes a snapshot of the entries, oldest first. Without a data file it is
 * empty. End the walk with kaws_walk_end. No KMS request. *walk is NULL on
 * failure: ARGUMENT, MEMORY. */
KAWS_API kaws_status kaws_walk_begin(kaws *ring, kaws_walk **walk,
                                     kaws_error *err);

/* Fills *info with the next entry and returns 1, or returns 0 after the last
 * one. *info is valid until the walk ends. */
KAWS_API int kaws_walk_next(kaws_walk *walk, kaws_entry_info *info);

/* Frees the walk; NULL is allowed. */
KAWS_API void kaws_walk_end(kaws_walk *walk);

/* ---- KMS keys, credentials, rotation ----------------------------------- */

/* Makes this the KMS key (id, ARN or alias) that seals from now on, if it
 * passes kaws_check's tests; otherwise nothing changes. What was sealed before
 * stays readable. A KMS key of an account that is not trusted is refused:
 * FOREIGN. If the ring's first KMS key was set by id or alias, without
 * config.accounts, and its account is not known yet, KMS is asked about the
 * first KMS key before the new one. If KMS does not know the first one or
 * denies access to it, a new id or alias is still accepted, if its account may
 * be trusted; a new ARN is not. With config.failover_regions, only a
 * multi-region key is accepted (CONFIG), and only its home is asked. ARGUMENT,
 * FOREIGN, and the KMS errors. */
KAWS_API kaws_status kaws_use_kms_key(kaws *ring, const char *kms_key_id,
                                      kaws_error *err);

/* Makes this the region in which ids and aliases are looked up, if the current
 * KMS key passes kaws_check's tests there; otherwise nothing changes. (If the
 * KMS key is set by ARN, KMS in that region need only answer.) No other region
 * is asked. ARGUMENT, FOREIGN, and the KMS errors. */
KAWS_API kaws_status kaws_use_region(kaws *ring, const char *region,
                                     kaws_error *err);

/* Changes the KMS key and the region together, or neither, because a KMS key
 * may exist in one region only. NULL leaves that one as it is. KMS is asked
 * about what changes (about the KMS key if nothing does), unless the last
 * kaws_try accepted just this pair. */
KAWS_API kaws_status kaws_use(kaws *ring, const char *kms_key_id,
                              const char *region, kaws_error *err);

/* Returns what kaws_use would return now. Nothing changes. */
KAWS_API kaws_status kaws_try(kaws *ring, const char *kms_key_id,
                              const char *region, kaws_error *err);

/* Returns what kaws_use would return now, as far as that can be told without a
 * KMS request: it checks the form of both and, if the KMS key is given as an
 * ARN, its account. Nothing changes. ARGUMENT, FOREIGN, CONFIG (with
 * config.failover_regions: it is no multi-region key). */
KAWS_API kaws_status kaws_could_use(kaws *ring, const char *kms_key_id,
                                    const char *region, kaws_error *err);

/* Sets the timeouts of later operations, in milliseconds; 0: the defaults. */
KAWS_API void kaws_use_timeouts(kaws *ring, int connect_timeout_ms,
                                int timeout_ms);

/* Keeps each fetched key in memory for this many seconds, 86400 at most; a
 * fetch then takes it from there without a KMS request (the manual, section 5).
 * 0: no key is kept. Changing the number empties the cache. */
KAWS_API void kaws_use_cache(kaws *ring, int seconds);

/* Asks the source of the credentials again; the conf file, for example, is read
 * again. (The ring also does so by itself: section 4.) On failure the old
 * credentials stay in use: CONFIG (a file, a profile or a variable is missing
 * or wrong), CREDENTIALS (the source gave none that can be used), NETWORK and
 * SERVICE (the source cannot be reached, or has failed; NETWORK also: another
 * thread has been asking for timeout_ms), MEMORY. */
KAWS_API kaws_status kaws_reload_creds(kaws *ring, kaws_error *err);

/* With which credentials, and where, the ring calls AWS KMS. */
typedef struct kaws_identity {
    char    source[24];           /* "the conf file", "the program", "the
                                   * environment", "the profile", "the web
                                   * identity", "the container", "the
                                   * instance", "no source"                   */
    char    access_key_end[5];    /* last four of the access key id; "": there
                                   * is none, or it does not look like AWS's  */
    char    account[13];          /* the own account; "": not known yet       */
    int64_t expires;              /* the credentials: Unix seconds; 0: never  */
    char    region[33];           /* which requests are signed for            */
    char    endpoint[192];        /* where they go: "https://host[:port]/"    */
} kaws_identity;

/* Fills *out. No KMS request. If there are no credentials yet, it asks their
 * source. If that fails, it returns the error, but still fills in what it
 * knows. ARGUMENT, and the errors of kaws_reload_creds. */
KAWS_API kaws_status kaws_whoami(kaws *ring, kaws_identity *out,
                                 kaws_error *err);

/* Has KMS make new key material for the current KMS key, and waits up to
 * timeout_ms for KMS to start using the new material. Old blobs stay readable.
 * A KMS key can be rotated on demand 25 times only, so the request is repeated
 * only if KMS throttled it, which means that it did nothing. The whole call may
 * take four times timeout_ms. If it is cancelled while it waits for KMS's
 * reply, nobody knows whether there is new material: the error says so. Of a
 * multi-region key, home must be that of the primary key. No other region is
 * asked. CONFIG, and the KMS errors. */
KAWS_API kaws_status kaws_rotate_kms_key(kaws *ring, kaws_error *err);

/* Has KMS re-encrypt every key under the current KMS key, several at a time,
 * and then replaces the file once: all or nothing. In a dry run KMS confirms
 * that it could decrypt each new blob under the key's name; this needs the
 * right to kms:Decrypt with the current KMS key, else DENIED. Two KMS requests
 * per key, and no plaintext leaves KMS. Across regions there are four requests
 * per key: two decrypt it (both results must be equal), one seals it, one
 * verifies it. Each KMS key is asked in its home alone (section 8.1). Other
 * threads may use the ring meanwhile: a key added then stays as it was sealed,
 * a key removed stays removed. ARGUMENT, CONFIG, RUNNING, FOREIGN, MISMATCH (of
 * an old blob), FILE, CHANGED, LOCKED, UNCERTAIN (the file is replaced),
 * MEMORY, and the KMS errors. */
KAWS_API kaws_status kaws_rewrap_all(kaws *ring, kaws_error *err);

/* Reads in what other processes changed in the data file. If they changed
 * nothing, that costs one look at the file (stat). What they only added, the
 * ring reads in by itself, before it changes the file and before it answers
 * NOT_FOUND. After any other change, the ring answers CHANGED (section 6) until
 * this function is called. Then the ring has exactly the keys that are in the
 * file: be sure that it is the right file, and no older copy. A warning in the
 * log has the number of keys and the checksum, before and after. A ring that
 * answered UNCERTAIN can change the file again. A re-wrap that is running ends
 * with CHANGED, unless keys were only added. No KMS request. On failure the
 * ring is as before: CONFIG, FILE (err->os is ENOENT: there is no file),
 * CORRUPT, CHANGED (it is a different keyring's file), LOCKED, UNCERTAIN,
 * MEMORY. */
KAWS_API kaws_status kaws_refresh(kaws *ring, kaws_error *err);

typedef struct kaws_stats {
    uint64_t keys;
    uint64_t kms_requests;        /* sent, with retries and the scout's       */
    uint64_t kms_errors;          /* of those, failed or refused              */
    uint64_t kms_retries;
    uint64_t kms_time_us;         /* spent waiting for replies                */
    uint64_t cache_hits;          /* keys fetched without a KMS request       */
    uint64_t rewrap_done, rewrap_total;   /* both 0 if none is running        */
    uint64_t failovers;           /* requests that another region answered    */
    uint8_t  checksum[32];        /* of the data file: its last 32 bytes      */
    int64_t  newest;              /* when the last key was made: Unix seconds */
    char     region_in_use[33];   /* which answers now (section 8.1)          */
} kaws_stats;

/* Fills *stats. No KMS request. Without a data file all figures but those of
 * KMS are 0. */
KAWS_API void kaws_get_stats(kaws *ring, kaws_stats *stats);

/* ---- AWS KMS without a data file ---------------------------------------
 *
 * A ring with a data file can do this as well. Without one, kaws_generate,
 * kaws_store, kaws_fetch, kaws_remove and kaws_rewrap_all answer CONFIG, a walk
 * is empty, and all else works.
 *
 * `ctx` may be NULL. On failure *out and the buffer at `plain`, in the length
 * that the caller gave, are all zeros. `out` may equal `in`; it is then
 * unchanged on failure, because it holds a key. Otherwise `plain`, *plain_len,
 * *in and *out must not overlap: ARGUMENT, and all stay unchanged. All four
 * functions may return ARGUMENT, CONFIG, FOREIGN, MEMORY and the KMS errors;
 * Decrypt and ReEncrypt also MISMATCH, if the context or the KMS key is not the
 * one used to encrypt. */

typedef struct kaws_pair {
    const char *name, *value;     /* UTF-8, not empty                         */
} kaws_pair;

/* An encryption context: no name may be in it twice. It is not secret, because
 * CloudTrail shows it. */
typedef struct kaws_context {
    const kaws_pair *pairs;
    size_t           count;
} kaws_context;

typedef struct kaws_sealed {
    uint8_t blob[6144];
    size_t  blob_len;
    char    kms_key_arn[256];
    char    key_material_id[65];  /* "" if KMS did not say                    */
} kaws_sealed;

/* The KMS action GenerateDataKey with the current KMS key; if `plain` is NULL,
 * GenerateDataKeyWithoutPlaintext. `len` is 1 to 1024; `plain` has that many
 * bytes. */
KAWS_API kaws_status kaws_kms_generate_data_key(kaws *ring,
                                                const kaws_context *ctx,
                                                size_t len, uint8_t *plain,
                                                kaws_sealed *out,
                                                kaws_error *err);

/* The KMS action Encrypt of 1 to 4096 bytes with the current KMS key. The blob
 * is not verified; kaws_kms_decrypt can do that. */
KAWS_API kaws_status kaws_kms_encrypt(kaws *ring, const kaws_context *ctx,
                                      kaws_bytes plain, kaws_sealed *out,
                                      kaws_error *err);

/* The KMS action Decrypt. The KMS key is in->kms_key_arn, or if that is "" the
 * current KMS key, which costs one more request. The account of the KMS key
 * must be trusted; to learn that may take more requests, as in kaws_fetch.
 * *plain_len is the size of the buffer before the call, the length of the
 * plaintext after it, and 0 on failure. ARGUMENT if the buffer is too small. */
KAWS_API kaws_status kaws_kms_decrypt(kaws *ring, const kaws_context *ctx,
                                      const kaws_sealed *in, uint8_t *plain,
                                      size_t *plain_len, kaws_error *err);

/* The KMS action ReEncrypt to the current KMS key, with the same context. The
 * blob is not verified. KMS cannot re-encrypt across regions: there it is
 * Decrypt, Encrypt, and Decrypt again, and both plaintexts must be equal. Each
 * KMS key is asked in its home alone. */
KAWS_API kaws_status kaws_kms_reencrypt(kaws *ring, const kaws_context *ctx,
                                        const kaws_sealed *in,
                                        kaws_sealed *out, kaws_error *err);

/* ---- sealed values that travel, in files or messages; without a ring ----
 *
 * The bytes have a format version and a field for each length (section 7), but
 * no checksum. They hold no secret. KMS decrypts the blob only if nobody has
 * changed it, and only with the context that it was sealed with; the KMS key
 * must be the one that the ARN names, and of a trusted account. Two things are
 * not protected: someone may have changed the key material id, or exchanged the
 * whole value for another one that was sealed with the same context. So put
 * into the context what distinguishes your values. If more bytes follow a
 * packed value, store its length, too. Nothing is allocated. */

#define KAWS_SEALED_PACKED_MAX 6479       /* no packed value has more bytes   */

/* Packs a sealed value as KMS returned it. *out_len is the size of the buffer
 * before the call, the number of bytes after it, and 0 on failure. On failure
 * the buffer is all zeros. It must not overlap *in. ARGUMENT: it is too small,
 * kms_key_arn is not the ARN of a KMS key (a value without one does not say
 * what decrypts it), key_material_id is not made of letters, digits, - / and _,
 * or the blob is empty or too long. */
KAWS_API kaws_status kaws_sealed_pack(const kaws_sealed *in, uint8_t *out,
                                      size_t *out_len, kaws_error *err);

/* Unpacks what kaws_sealed_pack packed, and nothing else: packing *out again
 * would give the same bytes. They may come from anyone, and must not overlap
 * *out. On failure *out is all zeros. ARGUMENT: the bytes are not a packed
 * value, are cut off, have more bytes after its end, have a format version that
 * this version does not know, or hold what kaws_sealed_pack refuses. */
KAWS_API kaws_status kaws_sealed_unpack(kaws_bytes packed, kaws_sealed *out,
                                        kaws_error *err);

/* ---- SigV4 without a ring; allocates nothing --------------------------- */

/* The request to sign. Path and query are as they will be sent,
 * percent-encoded, with upper-case digits. `headers` lists all headers to sign,
 * including Host, 64 at most. X-Amz-Date and X-Amz-Security-Token are signed
 * even if they are not listed; the caller must send both. Most services need
 * none of the last four members. S3 needs path_as_sent and a payload. */
typedef struct kaws_signing {
    const char *method;           /* "POST"                                   */
    const char *path;             /* "/"                                      */
    const char *query;            /* without '?'; NULL: none                  */
    const char *region, *service;
    const char *const *headers;   /* "name: value" lines, NULL at the end     */
    kaws_bytes  body;
    int64_t     when;             /* Unix seconds                             */

    /* 1: "." and "//" in the path stay, and it is encoded once (S3's rule). 0:
     * they are removed, and the path is encoded a second time. */
    int         path_as_sent;
    /* "UNSIGNED-PAYLOAD", the SHA-256 of the body (kaws_payload_sha256), or
     * another word of AWS's. This text is signed in place of the body's
     * SHA-256, and as the header X-Amz-Content-SHA256, which the caller must
     * send. (If it is listed, too, it must have this value.) NULL: the SHA-256
     * of `body`, and no header. */
    const char *payload;
    /* 1: the session token is sent but not signed, as a few services require.
     * Then `headers` must not list X-Amz-Security-Token. */
    int         token_unsigned;
    int         expires;          /* 0: a header; 1 to 604800 (s): a URL      */
} kaws_signing;

/* Writes the value of the Authorization header, NUL-terminated, to `out`, a
 * buffer of `cap` bytes. If what->expires is set, it writes the query of a
 * presigned URL instead: what->query, then X-Amz-Algorithm to X-Amz-Signature,
 * the session token among them, and at most 64 parameters in all. The URL is
 * "https://" HOST what->path "?" out. Anyone who has it can send that request
 * until it expires, so it is a secret. The request then needs no X-Amz- headers
 * but those in `headers`, and S3 wants its payload to be "UNSIGNED-PAYLOAD".
 * `out` must not overlap the inputs. On failure, ARGUMENT, it is all zeros. */
KAWS_API kaws_status kaws_sign(const kaws_signing *what, kaws_creds who,
                               char *out, size_t cap, kaws_error *err);

/* Writes the value of the X-Amz-Date header, "20150830T123600Z", for Unix
 * seconds; its first 8 bytes are the date in a signature's scope. Writes "" for
 * a time that kaws_sign refuses: before the year 1970, after 9999, or 0.
 * Returns `out`. */
KAWS_API const char *kaws_amz_date(char out[17], int64_t when);

/* Writes the SHA-256 of the body, in hex: a kaws_signing's payload, and the
 * value of the X-Amz-Content-SHA256 header. Returns `out`. */
KAWS_API const char *kaws_payload_sha256(char out[65], kaws_bytes body);

/* ---- small things ------------------------------------------------------ */

/* Returns a few words for a status; never NULL. */
KAWS_API const char *kaws_status_text(kaws_status status);

/* Returns "1.0.0". */
KAWS_API const char *kaws_version(void);

/* Writes a name or setting to `out`, a buffer of `cap` bytes (8 or more), in
 * the form in which our messages quote it: printable ASCII, other bytes as
 * \xNN, no password of a URL, no long base64. Returns `out`. */
KAWS_API const char *kaws_show(char *out, size_t cap, const char *name);

/* Overwrites with zeros, in a way that no compiler removes. */
KAWS_API void kaws_wipe(void *secret, size_t len);

#if defined(__cplusplus)
}
#endif

#endif /* KEYRING_AWS_H */

#if defined(KEYRING_AWS_IMPLEMENTATION) && !defined(KEYRING_AWS_IMPLEMENTED)
#define KEYRING_AWS_IMPLEMENTED

/* ##########################################################################
 *
 *  PART III    IMPLEMENTATION
 *
 *  In the order in which C needs it: a room calls only the rooms above it, so
 *  no function is declared ahead of its definition. Part II stood in the order
 *  in which a user needs it, so the story starts again here:
 *
 *      the system      lobby  sys  thread  disk  child
 *      basics          err  mem  buf  text  json  xml  ini  crypto
 *      a request       sigv4  url  head  curl  http
 *      credentials     arn  regions  hosts  sources  reading  remote  sts
 *                      helper  profile  native  creds
 *      AWS KMS         trust  fault  shield  breaker  op  route  calls
 *                      kms  scout  pack
 *      the data file   store  file  save  table
 *      the keyring     bind  vault  rewrap  ring
 *
 * ##########################################################################
 */


/* ==========================================================================
 * ROOM  lobby    what we include, and what we ask of the compiler
 * ==========================================================================
 * Uses: nothing
 * Gives: nothing
 *
 * The switches are described in the manual, section 3. The feature macros
 * stand above Part II, because they should come before any system header. If
 * one came before, it may hide declarations that we need. We can do without
 * those that only _GNU_SOURCE shows; if more are hidden, an #error says what to
 * do.
 */

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#if !defined(_WINDOWS_) && !defined(_WINSOCKAPI_)
#include <winsock2.h>             /* for curl; must come before windows.h     */
#endif
#include <windows.h>
#include <fcntl.h>
#include <io.h>
#else
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#endif

#if defined(__APPLE__)
#include <crt_externs.h>
#endif

#if defined(__linux__)
#include <sys/auxv.h>
#include <sys/syscall.h>
#endif

#if !defined(KEYRING_AWS_NO_THREADS) && !defined(_WIN32)
#include <pthread.h>
#endif

#if defined(__cplusplus)
#error "compile the implementation of keyring_aws.h as C; include it in C++"
#endif

#if defined(KEYRING_AWS_STATIC) && defined(KAWS__EXTERN)
#error "define KEYRING_AWS_STATIC above the first include of keyring_aws.h, too"
#endif

/* One name each from <fcntl.h>, <time.h>, <sys/mman.h> and <signal.h> shows
 * whether the header hides anything. */
#if !defined(_WIN32) && (!defined(O_CLOEXEC) || !defined(CLOCK_MONOTONIC) ||  \
    !defined(MAP_ANONYMOUS) || !defined(MADV_NORMAL) ||                       \
    (defined(SIG_DFL) && !defined(SIG_SETMASK)))
#error "a header hides what keyring_aws.h needs: put KEYRING_AWS_IMPLEMENTATION\
 and the include above all others, or compile with -D_GNU_SOURCE"
#endif

#if defined(__GLIBC__) && !defined(__USE_FILE_OFFSET64) &&                    \
    !defined(__OFF_T_MATCHES_OFF64_T) && !defined(__LP64__)
#error "off_t has 32 bits here: put KEYRING_AWS_IMPLEMENTATION and the include\
 above all others, or compile with -D_FILE_OFFSET_BITS=64"
#endif

/* KAWS__MAYBE: used only with the built-in sender. */
#if defined(__GNUC__) || defined(__clang__)
#define KAWS__PRINTF(text, first) __attribute__((format(printf, text, first)))
#define KAWS__MAYBE               __attribute__((unused))
#else
#define KAWS__PRINTF(text, first)
#define KAWS__MAYBE
#endif


/* ==========================================================================
 * ROOM  sys      clock, random bytes, locked pages, symbols, error texts
 * ==========================================================================
 * Uses: nothing
 * Gives: sys_env sys_is_lent sys_own_env sys_error_text sys_pid sys_ns
 *        sys_now_ms sys_ticks_us sys_ticks_ms sys_sleep_ms sys_random
 *        sys_lock_pages sys_alloc_locked sys_free_locked sys_advise_large
 *        sys_symbol sys_is_ipv6
 *
 * Where the systems differ, a function has its Windows code and its POSIX code
 * side by side. A call that can fail returns 0 or an errno value.
 */

#if defined(_WIN32)
typedef FILETIME kaws__time;
#else
typedef struct timespec kaws__time;

/* Repeats a POSIX call as long as a signal interrupts it. `os` becomes 0 or the
 * call's errno. */
#define KAWS__CALL(os, call)                                                  \
    do (os) = (call) < 0 ? errno : 0; while ((os) == EINTR)
#endif


static const char *
kaws__sys_env(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && *value != '\0' ? value : NULL;
}


/* Has this process more rights than the one that started it (setuid)? Then a
 * stranger may have set the environment. */
static int
kaws__sys_is_lent(void)
{
#if defined(__linux__)
    return getauxval(AT_SECURE) != 0;
#elif defined(_WIN32)
    return 0;
#else
    return getuid() != geteuid() || getgid() != getegid();
#endif
}


/* The variable, but NULL if a stranger may have set it. */
static const char *
kaws__sys_own_env(const char *name)
{
    return kaws__sys_is_lent() ? NULL : kaws__sys_env(name);
}


/* Which process this is. A Windows process has no forked child that could share
 * its memory. */
static long
kaws__sys_pid(void)
{
#if defined(_WIN32)
    return 0;
#else
    return (long)getpid();
#endif
}


/* strerror() may share a buffer between threads, and strerror_r() is two
 * different functions. The table has the errors that our calls can meet. If the
 * remedy for an error is little known, its text names the remedy. */
static const char *
kaws__sys_error_text(int os)
{
    static const struct { int os; const char *text; } known[] = {
        { EACCES,       "Permission denied" },
        { EAGAIN,       "Resource temporarily unavailable" },
        { EBADF,        "Bad file descriptor" },
        { EBUSY,        "Device or resource busy" },
        { EEXIST,       "File exists" },
        { EFBIG,        "File too large" },
        { EINVAL,       "Invalid argument" },
        { EIO,          "Input/output error" },
        { EISDIR,       "Is a directory" },
        { ELOOP,        "Is a symbolic link, or too many of them" },
        { EMFILE,       "Too many open files in this process" },
        { ENAMETOOLONG, "File name too long" },
        { ENFILE,       "Too many open files in the system" },
        { ENODEV,       "No such device" },
        { ENOENT,       "No such file or directory" },
        { ENOEXEC,      "Exec format error; a script has to begin with #!" },
        { ENOLCK,       "No locks available; move the file to a local disk, or "
                        "mount its file system with locks" },
        { ENOMEM,       "Cannot allocate memory" },
        { ENOSPC,       "No space left on device" },
        { ENOSYS,       "Function not implemented; move the file to a local "
                        "disk, or the program out of its sandbox" },
        { ENOTCONN,     "Transport endpoint is not connected; what serves the "
                        "file system has ended: mount it again" },
        { ENOTDIR,      "Not a directory" },
        { ENXIO,        "Is a pipe or a device" },
        { EOPNOTSUPP,   "Operation not supported; move the file to a local "
                        "disk" },
        { EPERM,        "Operation not permitted" },
        { EROFS,        "Read-only file system" },
        { ETXTBSY,      "Text file busy" },
#if !defined(_WIN32)
        { EDQUOT,       "Disk quota exceeded" },
        { ESTALE,       "Stale file handle; the file server no longer knows "
                        "the file: mount its file system again" },
#endif
        { ETIMEDOUT,    "Connection timed out; does the file server answer?" }
    };
    size_t i;

    for (i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].os == os)
            return known[i].text;
    return "see its errno";
}


/* ---- time and random bytes ---------------------------------------------- */

/* Nanoseconds since 1970. Windows counts units of 100 of them since 1601. */
static int64_t
kaws__sys_ns(kaws__time t)
{
#if defined(_WIN32)
    return ((int64_t)((uint64_t)t.dwHighDateTime << 32 | t.dwLowDateTime) -
            116444736000000000) * 100;
#else
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
#endif
}


/* The built-in `now_ms` hook. */
static int64_t
kaws__sys_now_ms(void *ctx)
{
    kaws__time t;

    (void)ctx;
#if defined(_WIN32)
    GetSystemTimeAsFileTime(&t);
#else
    clock_gettime(CLOCK_REALTIME, &t);
#endif
    return kaws__sys_ns(t) / 1000000;
}


/* Microseconds of a clock that only goes forward. */
static int64_t
kaws__sys_ticks_us(void)
{
#if defined(_WIN32)
    LARGE_INTEGER now, hz;

    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&hz);
    return now.QuadPart / hz.QuadPart * 1000000 +
           now.QuadPart % hz.QuadPart * 1000000 / hz.QuadPart;
#else
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return kaws__sys_ns(t) / 1000;
#endif
}


/* The built-in `ticks_ms` hook. */
static int64_t
kaws__sys_ticks_ms(void *ctx)
{
    (void)ctx;
    return kaws__sys_ticks_us() / 1000;
}


/* The built-in `sleep_ms` hook. */
static void
kaws__sys_sleep_ms(void *ctx, int ms)
{
#if defined(_WIN32)
    Sleep((DWORD)ms);
#else
    struct timespec left = { ms / 1000, ms % 1000 * 1000000L };
    int os;

    KAWS__CALL(os, nanosleep(&left, &left));
#endif
    (void)ctx;
}


#if defined(_WIN32) && !defined(_CRT_RAND_S)
int __cdecl rand_s(unsigned *out);        /* <stdlib.h> may be hiding it      */
#endif


/* The built-in `random` hook. It reads the device because, unlike getrandom(),
 * every system that we serve has it. Only a page key (room shield) is secret:
 * a file's id and the jitter of a retry are not. */
static int
kaws__sys_random(void *ctx, void *out, size_t len)
{
    uint8_t *at = out;
#if defined(_WIN32)
    unsigned word;

    for (; len > 0 && rand_s(&word) == 0; len--)
        *at++ = (uint8_t)word;
#else
    int os, fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    ssize_t n = 1;

    for (; len > 0 && fd >= 0 && n > 0; at += n, len -= (size_t)n) {
        KAWS__CALL(os, n = read(fd, at, len));
        n = os != 0 ? 0 : n;
    }
    if (fd < 0)
        return errno;
    close(fd);
#endif
    (void)ctx;
    return len == 0 ? 0 : EIO;
}


/* ---- pages that are neither swapped nor dumped -------------------------- */

/* Keeps pages out of swap and, on Linux, out of core dumps and forked children.
 * It tries every step, even if one fails, and returns the first failure. The
 * numbers are the kernel's: libc may be older, or a header may hide its names.
 */
static int
kaws__sys_lock_pages(void *at, size_t len)
{
#if defined(_WIN32)
    return VirtualLock(at, len) ? 0 : ENOMEM;
#else
    int os = mlock(at, len) != 0 ? errno : 0;
#if defined(__linux__)
    enum { DONTDUMP = 16, WIPEONFORK = 18 };

    os = madvise(at, len, DONTDUMP) != 0 && os == 0 ? errno : os;
    os = madvise(at, len, WIPEONFORK) != 0 && os == 0 ? errno : os;
#endif
    return os;
#endif
}


/* Locking and hiding are best effort: a process may lock only so many pages,
 * and a keyring whose memory could be swapped is better than a database that
 * does not start. NULL if there is no memory. */
static void *
kaws__sys_alloc_locked(size_t len)
{
#if defined(_WIN32)
    void *at = VirtualAlloc(NULL, len, MEM_COMMIT | MEM_RESERVE,
                            PAGE_READWRITE);

    if (at != NULL)
        (void)kaws__sys_lock_pages(at, len);
#else
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE,
                    /* cppcheck-suppress invalidFunctionArg ; -1: no file     */
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (at == MAP_FAILED)
        return NULL;
    (void)kaws__sys_lock_pages(at, len);
#endif
    return at;
}


static void
kaws__sys_free_locked(void *at, size_t len)
{
    if (at == NULL)
        return;
#if defined(_WIN32)
    (void)len;
    VirtualFree(at, 0, MEM_RELEASE);
#else
    munmap(at, len);
#endif
}


/* Asks for large pages: the bytes will be read here and there, and a few large
 * pages cause fewer faults now and fewer TLB misses later. No system has pages
 * above 64 KiB unless asked, so each multiple of 64 KiB is where a page begins.
 * On Windows large pages take a right that servers seldom have. */
static void
kaws__sys_advise_large(void *at, size_t len)
{
#if defined(MADV_HUGEPAGE)
    size_t skip = (size_t)-(uintptr_t)at % 65536;

    if (len > 4 << 20)
        (void)madvise((uint8_t *)at + skip, len - skip, MADV_HUGEPAGE);
#endif
    (void)at;
    (void)len;
}


/* ---- symbols ----------------------------------------------------------- */

#if defined(__linux__)                    /* a header may be hiding these     */
typedef struct { const char *dli_fname; void *other[3]; } kaws__dl_info;

extern int kaws__sys_dladdr(const void *, kaws__dl_info *) __asm__("dladdr");
extern void *kaws__sys_dlvsym(void *, const char *, const char *)
    __asm__("dlvsym");
extern long (kaws__sys_call)(long, ...) __asm__("syscall");
#elif !defined(_WIN32)
typedef Dl_info kaws__dl_info;

#define kaws__sys_dladdr dladdr
#endif

#if defined(RTLD_DEFAULT)
#define KAWS__FIRST RTLD_DEFAULT
#else
#define KAWS__FIRST NULL
#endif


#if defined(__GLIBC__)

/* `symbol` is the first function of that name in the process. Returns 1 if it
 * has one of OpenSSL's symbol versions and the library `own` does not have that
 * version: then code linked with `own` does not call it. (If a function has no
 * version, all code calls it.) */
static int
kaws__sys_is_foreign(const char *name, void *symbol, void *own)
{
    static const char *const versions[] = {
        "OPENSSL_1.0.0", "OPENSSL_1_1_0", "OPENSSL_3.0.0", "OPENSSL_4.0.0"
    };
    size_t i;

    for (i = 0; i < 4; i++)
        if (kaws__sys_dlvsym(KAWS__FIRST, name, versions[i]) == symbol)
            return kaws__sys_dlvsym(own, name, versions[i]) == NULL;
    return 0;
}

#else
#define kaws__sys_is_foreign(name, symbol, own) 0
#endif


/* Returns the function of that name that the code at `caller` calls. The
 * dynamic linker takes the first one in the process's global scope, or else the
 * one of the code's own library, and so do we. NULL if there is none. */
KAWS__MAYBE static void *
kaws__sys_symbol(const char *name, void *caller)
{
#if defined(_WIN32)
    (void)name;
    (void)caller;
    return NULL;
#else
    void *symbol = dlsym(KAWS__FIRST, name), *library = NULL, *own;
    kaws__dl_info info;

    if (kaws__sys_dladdr(caller, &info) != 0)
        library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL)
        return symbol;
    own = dlsym(library, name);
    if (symbol == NULL ||
        (own != NULL && kaws__sys_is_foreign(name, symbol, library)))
        symbol = own;
    dlclose(library);
    return symbol;
#endif
}


/* Whether it is an IPv6 address, without brackets. */
static int
kaws__sys_is_ipv6(const char *text)
{
    uint8_t address[16];
#if defined(_WIN32)
    LONG (NTAPI *parse)(const char *, const char **, void *);
    FARPROC symbol = GetProcAddress(GetModuleHandleA("ntdll"),
                                    "RtlIpv6StringToAddressA");
    const char *end;

    memcpy(&parse, &symbol, sizeof parse);
    return symbol != NULL && parse(text, &end, address) == 0 && *end == '\0';
#else
    return inet_pton(AF_INET6, text, address) == 1;
#endif
}


/* ==========================================================================
 * ROOM  thread   locks and their order, once, parallel work, the turn
 * ==========================================================================
 * Uses: sys
 * Gives: thread_lock_init thread_lock_free thread_lock thread_unlock
 *        thread_peek thread_poke thread_once thread_process_lock
 *        thread_process_unlock thread_parallel thread_aside thread_aside_end
 *        thread_pause thread_turn_init thread_turn_free thread_turn_wait
 *        thread_turn_end
 *
 * Three systems share the code: POSIX threads, Windows, and none at all
 * (KEYRING_AWS_NO_THREADS). A call that can fail returns 0 or an errno value.
 */

/* ---- what differs between the systems ----------------------------------- */

#if defined(KEYRING_AWS_NO_THREADS)

typedef int kaws__mutex, kaws__cond, kaws__worker;

#define KAWS__MUTEX                      0
#define KAWS__MUTEX_INIT(mutex)          (*(mutex) = 0)
#define KAWS__MUTEX_FREE(mutex)          ((void)(mutex))
#define KAWS__MUTEX_LOCK(mutex)          ((void)(mutex))
#define KAWS__MUTEX_UNLOCK(mutex)        ((void)(mutex))
#define KAWS__COND_INIT(cond)            (*(cond) = 0)
#define KAWS__COND_FREE(cond)            ((void)(cond))
#define KAWS__COND_WAIT(cond, mutex, ms) ((void)(ms))
#define KAWS__COND_WAKE(cond)            ((void)(cond))
#define KAWS__COND_WAKE_ALL(cond)        ((void)(cond))
#define KAWS__CANCEL_OFF(old)            (*(old) = 0)
#define KAWS__CANCEL_BACK(old)           ((void)(old))
#define KAWS__WORKER                     void *
#define KAWS__WORKER_START(worker, work, job)                                 \
    ((void)(work), (void)(job), *(worker) = 0)
#define KAWS__WORKER_JOIN(worker)        ((void)(worker))
#define KAWS__SWAP(at, was, now)                                              \
    (*(at) == (was) ? (*(at) = (now), (was)) : *(at))
#define KAWS__YIELD()                    ((void)0)

#elif defined(_WIN32)

typedef SRWLOCK kaws__mutex;
typedef CONDITION_VARIABLE kaws__cond;
typedef HANDLE kaws__worker;

#define KAWS__MUTEX                      SRWLOCK_INIT
#define KAWS__MUTEX_INIT(mutex)          (InitializeSRWLock(mutex), 0)
#define KAWS__MUTEX_FREE(mutex)          ((void)(mutex))
#define KAWS__MUTEX_LOCK(mutex)          AcquireSRWLockExclusive(mutex)
#define KAWS__MUTEX_UNLOCK(mutex)        ReleaseSRWLockExclusive(mutex)
#define KAWS__COND_INIT(cond)            (InitializeConditionVariable(cond), 0)
#define KAWS__COND_FREE(cond)            ((void)(cond))
#define KAWS__COND_WAIT(cond, mutex, ms)                                      \
    (void)SleepConditionVariableSRW(cond, mutex, (DWORD)(ms), 0)
#define KAWS__COND_WAKE(cond)            WakeConditionVariable(cond)
#define KAWS__COND_WAKE_ALL(cond)        WakeAllConditionVariable(cond)
#define KAWS__CANCEL_OFF(old)            (*(old) = 0)
#define KAWS__CANCEL_BACK(old)           ((void)(old))
#define KAWS__WORKER                     DWORD WINAPI
#define KAWS__WORKER_START(worker, work, job)                                 \
    ((*(worker) = CreateThread(NULL, 0, work, job, 0, NULL)) != NULL)
#define KAWS__WORKER_JOIN(worker)                                             \
    ((void)WaitForSingleObject(worker, INFINITE), CloseHandle(worker))
#define KAWS__SWAP(at, was, now)                                              \
    InterlockedCompareExchange(at, now, was)
#define KAWS__YIELD()                    ((void)SwitchToThread())

#else

typedef pthread_mutex_t kaws__mutex;
typedef pthread_cond_t kaws__cond;
typedef pthread_t kaws__worker;

#define KAWS__MUTEX                      PTHREAD_MUTEX_INITIALIZER
#define KAWS__MUTEX_INIT                 kaws__thread_mutex_init
#define KAWS__MUTEX_FREE(mutex)          pthread_mutex_destroy(mutex)
#define KAWS__MUTEX_LOCK(mutex)          pthread_mutex_lock(mutex)
#define KAWS__MUTEX_UNLOCK(mutex)        pthread_mutex_unlock(mutex)
#define KAWS__COND_INIT                  kaws__thread_cond_init
#define KAWS__COND_FREE(cond)            pthread_cond_destroy(cond)
#define KAWS__COND_WAIT                  kaws__thread_cond_wait
#define KAWS__COND_WAKE(cond)            pthread_cond_signal(cond)
#define KAWS__COND_WAKE_ALL(cond)        pthread_cond_broadcast(cond)
#define KAWS__CANCEL_OFF(old)                                                 \
    ((void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, old))
#define KAWS__CANCEL_BACK(old)                                                \
    ((void)pthread_setcancelstate(old, &(old)))
#define KAWS__WORKER                     void *
#define KAWS__WORKER_START               kaws__thread_start
#define KAWS__WORKER_JOIN(worker)        pthread_join(worker, NULL)
#define KAWS__YIELD()                    ((void)sched_yield())

#if defined(__APPLE__)            /* conditions have no other clock there     */
#define KAWS__COND_CLOCK CLOCK_REALTIME
#define KAWS__COND_SET_CLOCK(how) ((void)(how))
#else
#define KAWS__COND_CLOCK CLOCK_MONOTONIC
#define KAWS__COND_SET_CLOCK(how)                                             \
    ((void)pthread_condattr_setclock(how, KAWS__COND_CLOCK))
#endif


/* Our locks are held for less than it takes a thread to sleep and be woken. So
 * where the system can do that, a thread tries a few times before it sleeps. */
static int
kaws__thread_mutex_init(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t how;
    int os = pthread_mutexattr_init(&how);

    if (os != 0)
        return os;
#if defined(__GLIBC__)
    (void)pthread_mutexattr_settype(&how, 3);     /* ..._ADAPTIVE_NP, whether
                                                   * a header hid it or not   */
#endif
    os = pthread_mutex_init(mutex, &how);
    pthread_mutexattr_destroy(&how);
    return os;
}


static int
kaws__thread_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t how;
    int os = pthread_condattr_init(&how);

    if (os != 0)
        return os;
    KAWS__COND_SET_CLOCK(&how);
    os = pthread_cond_init(cond, &how);
    pthread_condattr_destroy(&how);
    return os;
}


static void
kaws__thread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, int ms)
{
    struct timespec until;
    int64_t ns;

    clock_gettime(KAWS__COND_CLOCK, &until);
    ns = kaws__sys_ns(until) + ms * INT64_C(1000000);
    until = (struct timespec){ (time_t)(ns / 1000000000),
                               (long)(ns % 1000000000) };
    (void)pthread_cond_timedwait(cond, mutex, &until);
}


/* The new thread takes no signals, because signals are for the program that
 * uses this library. */
static int
kaws__thread_start(pthread_t *worker, void *(*work)(void *), void *job)
{
    sigset_t all, before;
    int os;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    os = pthread_create(worker, NULL, work, job);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return os == 0;
}

#if defined(__GNUC__) || defined(__clang__)
#define KAWS__SWAP                       __sync_val_compare_and_swap
#else
#define KAWS__SWAP                       kaws__thread_swap


/* If *at is `was`, it becomes `now`. Returns what it was. */
static long
kaws__thread_swap(volatile long *at, long was, long now)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    long had;

    pthread_mutex_lock(&mutex);
    had = *at;
    if (had == was)
        *at = now;
    pthread_mutex_unlock(&mutex);
    return had;
}

#endif

#endif

/* ---- locks -------------------------------------------------------------- */

/* All locks, in their order: a thread takes a lock only if each lock that it
 * holds stands above it here. */
#define KAWS__RANKS(X)                                                        \
    X(SETTINGS) /* ring: one change of the KMS key at a time                */\
    X(REWRAP)   /* rewrap: whether one is running, and how far it is        */\
    X(TURN)     /* vault: one change of the data file at a time             */\
    X(VAULT)    /* vault: the table, the file and what belongs to them      */\
    X(SHIELD)   /* shield: the keys that are kept, and who waits for one    */\
    X(SCOUT)    /* scout: whether its thread runs                           */\
    X(TRUST)    /* trust: the KMS key that seals, and whom the ring trusts  */\
    X(CALLS)    /* op: the clock's offset, the counters, who answers        */\
    X(BREAKER)  /* breaker: which hosts do not answer, for all rings        */\
    X(SOURCE)   /* creds: one thread at a time asks for new credentials     */\
    X(CREDS)    /* creds: the credentials and their generation              */\
    X(HTTP)     /* http: the request ids that have come                     */\
    X(SENDER)   /* curl: the built-in sender's connections                  */\
    X(WAITERS)  /* thread: who waits for a turn                             */

#define KAWS__RANK_NAME(name) KAWS__RANK_##name,

typedef enum kaws__rank {
    KAWS__RANKS(KAWS__RANK_NAME) KAWS__RANK_COUNT
} kaws__rank;

typedef struct kaws__lock {
    kaws__mutex mutex;
    kaws__rank  rank;
    int         ready;            /* 0: there is nothing to free              */
} kaws__lock;


/* The tests define this macro: it aborts if a thread takes a lock of that rank
 * (`takes` is 1), or releases one (0), against the order. */
#if !defined(KAWS__RANK_CHECK)
#define KAWS__RANK_CHECK(rank, takes) ((void)0)
#endif


static int
kaws__thread_lock_init(kaws__lock *lock, kaws__rank rank)
{
    int os = KAWS__MUTEX_INIT(&lock->mutex);

    lock->rank = rank;
    lock->ready = os == 0;
    return os;
}


/* A lock that is all zeros, or whose init failed, may be freed, too. */
static void
kaws__thread_lock_free(kaws__lock *lock)
{
    if (lock->ready)
        KAWS__MUTEX_FREE(&lock->mutex);
}


static void
kaws__thread_lock(kaws__lock *lock)
{
    KAWS__RANK_CHECK(lock->rank, 1);
    KAWS__MUTEX_LOCK(&lock->mutex);
}


static void
kaws__thread_unlock(kaws__lock *lock)
{
    KAWS__MUTEX_UNLOCK(&lock->mutex);
    KAWS__RANK_CHECK(lock->rank, 0);
}


/* peek reads, without the lock, a number that other threads change with poke
 * while they hold the lock. */
#if defined(__GNUC__)
#define kaws__thread_peek(at)      __atomic_load_n(at, __ATOMIC_RELAXED)
#define kaws__thread_poke(at, now) __atomic_store_n(at, now, __ATOMIC_RELAXED)
#else
#define kaws__thread_peek(at)      (*(volatile int *)(at))
#define kaws__thread_poke(at, now) (*(volatile int *)(at) = (now))
#endif


typedef struct kaws__once {
    kaws__mutex mutex;
    int         done;
} kaws__once;

#define KAWS__ONCE { KAWS__MUTEX, 0 }


/* Runs the job unless it has run, and returns when it has ended. */
KAWS__MAYBE static void
kaws__thread_once(kaws__once *once, void (*job)(void))
{
    KAWS__MUTEX_LOCK(&once->mutex);
    if (!once->done)
        job();
    once->done = 1;
    KAWS__MUTEX_UNLOCK(&once->mutex);
}


/* A lock of the whole process, for what all rings share; it is held for a few
 * lines only. It is static, so a forked child inherits it. A thread of the
 * parent may have held it during fork(), and the child does not have that
 * thread. So the holder leaves the number of its process in the lock: to any
 * other process the lock is free. */
typedef struct kaws__process_lock {
    volatile long holder;         /* process number + 1; 0: nobody            */
    long          process;        /* of the last holder                       */
} kaws__process_lock;


/* Returns 1 if this process has never held it: what it guards may be a parent
 * process's, and half written. */
static int
kaws__thread_process_lock(kaws__process_lock *lock, kaws__rank rank)
{
    const long own = kaws__sys_pid() + 1;
    long was = 0, had;
    int first;

    (void)rank;
    KAWS__RANK_CHECK(rank, 1);
    while ((had = KAWS__SWAP(&lock->holder, was, own)) != was) {
        was = had == own ? 0 : had;
        if (had == own)
            KAWS__YIELD();
    }
    first = lock->process != own;
    lock->process = own;
    return first;
}


static void
kaws__thread_process_unlock(kaws__process_lock *lock, kaws__rank rank)
{
    (void)rank;
    (void)KAWS__SWAP(&lock->holder, lock->process, 0);
    KAWS__RANK_CHECK(rank, 0);
}


/* ---- parallel work ------------------------------------------------------ */

#define KAWS__PARALLEL_MAX 64

typedef struct kaws__job {
    void (*run)(void *);
    void *arg;
} kaws__job;


KAWS__MAYBE static KAWS__WORKER
kaws__thread_work(void *arg)
{
    kaws__job *job = arg;

    job->run(job->arg);
    return 0;
}


/* Runs the job on `count` threads, the caller's among them, and returns when
 * all have ended. If the system gives fewer threads, fewer do the work. */
static void
kaws__thread_parallel(int count, void (*run)(void *), void *arg)
{
    kaws__job job = { run, arg };
    kaws__worker workers[KAWS__PARALLEL_MAX];
    int started = 0;

    while (started < count - 1 && started < KAWS__PARALLEL_MAX &&
           KAWS__WORKER_START(&workers[started], kaws__thread_work, &job))
        started++;
    run(arg);
    while (started-- > 0)
        KAWS__WORKER_JOIN(workers[started]);
}


/* A thread that works beside its caller. All zeros: there is none. */
typedef struct kaws__aside {
    kaws__job    job;
    kaws__worker worker;
    int          runs;
} kaws__aside;


/* Starts the job. Returns 0 if the system gives no thread. */
static int
kaws__thread_aside(kaws__aside *a, void (*run)(void *), void *arg)
{
    a->job = (kaws__job){ run, arg };
    return a->runs = KAWS__WORKER_START(&a->worker, kaws__thread_work, &a->job);
}


/* Returns when the job has ended. */
static void
kaws__thread_aside_end(kaws__aside *a)
{
    if (a->runs)
        KAWS__WORKER_JOIN(a->worker);
    a->runs = 0;
}


/* ---- waiting that can be cancelled -------------------------------------- */

#define KAWS__CANCEL_MS 100       /* how often we ask                         */

typedef struct kaws__cancel {     /* the hook `cancelled`, or one like it     */
    int (*asked)(void *arg);      /* NULL: nobody cancels                     */
    void *arg;
} kaws__cancel;

#define KAWS__CANCEL_BY(hooks) { (hooks)->cancelled, (hooks)->ctx }


/* Sleeps for so many ms. Returns 1 if the call is cancelled. */
static int
kaws__thread_pause(const kaws_hooks *hooks, const kaws__cancel *cancel, int ms)
{
    int most = cancel->asked != NULL ? KAWS__CANCEL_MS : ms, some;

    for (; ms > 0; ms -= some) {
        if (cancel->asked != NULL && cancel->asked(cancel->arg))
            return 1;
        some = ms < most ? ms : most;
        hooks->sleep_ms(hooks->ctx, some);
    }
    return cancel->asked != NULL && cancel->asked(cancel->arg);
}


/* ---- the turn ----------------------------------------------------------- */

enum { KAWS__TOO_LONG = -1, KAWS__GIVEN_UP = -2 };

/* A turn is a lock with a time limit. The limit starts again whenever a thread
 * ends its turn and reports progress. */
typedef struct kaws__turn {
    kaws__lock lock;              /* guards all below                         */
    kaws__rank rank;              /* of the turn itself                       */
    kaws__cond ended;
    int        taken;
    unsigned   passed;            /* how many turns ended with progress       */
} kaws__turn;


static int
kaws__thread_turn_init(kaws__turn *turn, kaws__rank rank)
{
    int os = KAWS__COND_INIT(&turn->ended);

    turn->rank = rank;
    turn->taken = 0;
    turn->passed = 0;
    if (os == 0 &&
        (os = kaws__thread_lock_init(&turn->lock, KAWS__RANK_WAITERS)) != 0)
        KAWS__COND_FREE(&turn->ended);
    return os;
}


static void
kaws__thread_turn_free(kaws__turn *turn)
{
    if (turn->lock.ready)
        KAWS__COND_FREE(&turn->ended);
    kaws__thread_lock_free(&turn->lock);
}


/* Waits for the turn. If we get it, returns how many ms had passed since the
 * last progress. We do not get it if there is no progress for `ms`
 * (KAWS__TOO_LONG), or if the call is cancelled (KAWS__GIVEN_UP). */
static int
kaws__thread_turn_wait(kaws__turn *turn, int ms, const kaws_hooks *hooks)
{
    const kaws__cancel cancel = KAWS__CANCEL_BY(hooks);
    int64_t since = kaws__sys_ticks_us();
    unsigned passed;
    int waited = 0, left;

    KAWS__RANK_CHECK(turn->rank, 1);
    kaws__thread_lock(&turn->lock);
    passed = turn->passed;
    while (turn->taken && waited >= 0 && waited < ms) {
        left = ms - waited;
        if (cancel.asked != NULL && left > KAWS__CANCEL_MS)
            left = KAWS__CANCEL_MS;
        KAWS__COND_WAIT(&turn->ended, &turn->lock.mutex, left);
        if (passed != turn->passed)
            since = kaws__sys_ticks_us();
        passed = turn->passed;
        waited = (int)((kaws__sys_ticks_us() - since) / 1000);
        if (turn->taken && cancel.asked != NULL && cancel.asked(cancel.arg))
            waited = KAWS__GIVEN_UP;
    }
    if (turn->taken && waited >= 0)
        waited = KAWS__TOO_LONG;
    turn->taken = 1;
    kaws__thread_unlock(&turn->lock);
    if (waited < 0)
        KAWS__RANK_CHECK(turn->rank, 0);
    return waited;
}


/* `got_on`: the turn made progress, so the time limit of those who wait starts
 * again. */
static void
kaws__thread_turn_end(kaws__turn *turn, int got_on)
{
    kaws__thread_lock(&turn->lock);
    turn->taken = 0;
    turn->passed += got_on != 0;
    kaws__thread_unlock(&turn->lock);
    KAWS__COND_WAKE(&turn->ended);
    KAWS__RANK_CHECK(turn->rank, 0);
}


/* ==========================================================================
 * ROOM  disk     file calls that return an errno; paths
 * ==========================================================================
 * Uses: sys
 * Gives: disk_last_slash disk_tidy_path disk_open disk_close disk_stat
 *        disk_read_at disk_write_at disk_sync disk_sync_dir disk_truncate
 *        disk_rename disk_is_mount disk_may_change disk_remove disk_make_dir
 *        disk_lock disk_unlock disk_locked_by_others
 *
 * A file is a descriptor, on Windows, too; a failed call leaves it open. On
 * Windows paths are UTF-8. Owners and modes are ignored there, because Windows
 * has access lists instead, which files inherit from the folder.
 */

/* How to open. READ_LINKED is for a file that the administrator may have put
 * behind a link. */
enum {
    KAWS__READ, KAWS__WRITE, KAWS__NEW, KAWS__LOCKFILE, KAWS__READ_LINKED,
    KAWS__FOLDER
};

/* How to rename: replace what has the new name, fail if something has it, or
 * exchange the two names. These are renameat2()'s numbers. */
enum { KAWS__REPLACE, KAWS__RENAME_NEW, KAWS__EXCHANGE };

typedef struct kaws__stat {
    uint64_t dev, ino, size, links;
    uint64_t stored;              /* bytes on disk; less: holes; 0: unknown   */
    int64_t  mtime_ns, ctime_ns;  /* ctime: 0 where the system has none       */
    int      regular;             /* a plain file, no link, pipe or folder    */
    int      mine;                /* it belongs to the user that we run as    */
    int      roots;               /* it belongs to root                       */
    int      others_read, others_write;
    int      lent;                /* root's, and for our group: a secret that a
                                   * container mounts read-only, or the folder
                                   * of a volume                              */
} kaws__stat;

#if defined(_WIN32)
#define KAWS__SLASHES    "/\\"
#define KAWS__ROOT_MAX   2        /* slashes begin the name of a server       */
#define KAWS__KEEPS_OPEN 0        /* MoveFileEx() replaces no open file       */
#else
#define KAWS__SLASHES    "/"
#define KAWS__ROOT_MAX   1        /* slash begins a path                      */
#define KAWS__KEEPS_OPEN 1        /* a file that is open can be replaced      */
#endif

#if defined(__APPLE__)
#define KAWS__MTIME st_mtimespec
#define KAWS__CTIME st_ctimespec
#else
#define KAWS__MTIME st_mtim
#define KAWS__CTIME st_ctim
#endif


/* ---- paths ------------------------------------------------------------- */

static const char *
kaws__disk_last_slash(const char *path)
{
    const char *slash = NULL;

    for (; *path != '\0'; path++)
        if (strchr(KAWS__SLASHES, *path) != NULL)
            slash = path;
    return slash;
}


/* Removes the parts of a path that mean nothing: doubled slashes, "." and a
 * slash at the end. ".." stays: because of links, only the system knows what it
 * means. */
static void
kaws__disk_tidy_path(char *path)
{
    size_t n = strspn(path, KAWS__SLASHES);
    char *root = path + (n < KAWS__ROOT_MAX ? n : KAWS__ROOT_MAX);
    char *from = root, *to = root;

    for (; *from != '\0'; from += n + (from[n] != '\0')) {
        n = strcspn(from, KAWS__SLASHES);
        if (n == 0 || (n == 1 && *from == '.'))
            continue;
        if (to > root)
            *to++ = from[-1];
        memmove(to, from, n);
        to += n;
    }
    if (to == path && *path != '\0')
        to++;                             /* "." alone                        */
    *to = '\0';
}


/* ---- what Windows needs ------------------------------------------------- */

#if defined(_WIN32)

#define KAWS__HANDLE(fd) ((HANDLE)_get_osfhandle(fd))


/* GetLastError() as an errno value. `path` is what the call failed for, or
 * NULL. If it is a folder, Windows only denies access; POSIX says EISDIR. */
static int
kaws__disk_errno(const WCHAR *path)
{
    static const struct { int os; DWORD errors[2]; } known[] = {
        { EACCES, { ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION } },
        { EAGAIN, { ERROR_LOCK_VIOLATION, ERROR_IO_PENDING } },
        { EBADF, { ERROR_INVALID_HANDLE } },
        { EEXIST, { ERROR_FILE_EXISTS, ERROR_ALREADY_EXISTS } },
        { EINVAL, { ERROR_INVALID_NAME, ERROR_INVALID_PARAMETER } },
        { EMFILE, { ERROR_TOO_MANY_OPEN_FILES } },
        { ENOENT, { ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND } },
        { ENOLCK, { ERROR_LOCK_FAILED } },
        { ENOMEM, { ERROR_NOT_ENOUGH_MEMORY } },
        { ENOSPC, { ERROR_DISK_FULL, ERROR_HANDLE_DISK_FULL } },
        { ENOTDIR, { ERROR_DIRECTORY } },
        { EOPNOTSUPP, { ERROR_INVALID_FUNCTION, ERROR_NOT_SUPPORTED } },
        { EPERM, { ERROR_PRIVILEGE_NOT_HELD } },
        { EROFS, { ERROR_WRITE_PROTECT } }
    };
    DWORD error = GetLastError(), found = INVALID_FILE_ATTRIBUTES;
    size_t i;

    if (path != NULL && error == ERROR_ACCESS_DENIED)
        found = GetFileAttributesW(path);
    if (found != INVALID_FILE_ATTRIBUTES && found & FILE_ATTRIBUTE_DIRECTORY)
        return EISDIR;
    for (i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].errors[0] == error || known[i].errors[1] == error)
            return known[i].os;
    return EIO;
}


static int
kaws__disk_wide(const char *path, WCHAR out[MAX_PATH])
{
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, out,
                            MAX_PATH) != 0)
        return 0;
    return GetLastError() == ERROR_INSUFFICIENT_BUFFER ? ENAMETOOLONG : EINVAL;
}

#endif


/* ---- open files --------------------------------------------------------- */

/* Opens without waiting for the other end of a pipe. Only READ_LINKED follows a
 * link at the end of the path, because an attacker may have put one in the
 * keyring's place. FOLDER opens a folder so that it can be synced. READ and
 * READ_LINKED open a folder, too, on POSIX and on Windows; the caller then sees
 * that it is no file. If the process has closed 0, 1 or 2, a file of ours does
 * not get that number: what others print would be written into it. */
static int
kaws__disk_open(const char *path, int how, int *fd)
{
#if defined(_WIN32)
    static const struct { DWORD access, disposition, flags; } ways[] = {
        { GENERIC_READ, OPEN_EXISTING,
          FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT },
        { GENERIC_READ | GENERIC_WRITE, OPEN_EXISTING,
          FILE_FLAG_OPEN_REPARSE_POINT },
        { GENERIC_READ | GENERIC_WRITE, CREATE_NEW, 0 },
        { GENERIC_READ | GENERIC_WRITE, OPEN_ALWAYS,
          FILE_FLAG_OPEN_REPARSE_POINT },
        { GENERIC_READ, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS },
        { GENERIC_WRITE, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS }
    };
    WCHAR wide[MAX_PATH];
    HANDLE handle;
    DWORD found;
    int os = kaws__disk_wide(path, wide);

    *fd = -1;
    if (os != 0)
        return os;
    found = how == KAWS__FOLDER ? GetFileAttributesW(wide)
                                : INVALID_FILE_ATTRIBUTES;
    if (found != INVALID_FILE_ATTRIBUTES && !(found & FILE_ATTRIBUTE_DIRECTORY))
        return ENOTDIR;
    handle = CreateFileW(wide, ways[how].access, FILE_SHARE_READ |
                         FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                         ways[how].disposition, ways[how].flags, NULL);
    if (handle == INVALID_HANDLE_VALUE)
        return kaws__disk_errno(how == KAWS__FOLDER ? NULL : wide);
    *fd = _open_osfhandle((intptr_t)handle, _O_BINARY);
    if (*fd < 0)
        CloseHandle(handle);
    return *fd < 0 ? EMFILE : 0;
#else
    static const int flags[] = {
        O_RDONLY | O_NOFOLLOW, O_RDWR | O_NOFOLLOW,
        O_RDWR | O_NOFOLLOW | O_CREAT | O_EXCL,
        O_RDWR | O_NOFOLLOW | O_CREAT,
        O_RDONLY, O_RDONLY | O_DIRECTORY
    };
    int os, low, more = O_CLOEXEC | O_NONBLOCK;

    KAWS__CALL(os, *fd = open(path, flags[how] | more, 0600));
    if (os == 0 && (low = *fd) <= 2) {
        KAWS__CALL(os, *fd = fcntl(low, F_DUPFD_CLOEXEC, 3));
        close(low);
    }
    return os;
#endif
}


static void
kaws__disk_close(int fd)
{
    if (fd < 0)
        return;
#if defined(_WIN32)
    _close(fd);
#else
    close(fd);
#endif
}


/* Whether the process is in that group. (If it is in more than 256 groups, only
 * its effective group counts.) */
#if !defined(_WIN32)
static int
kaws__disk_in_group(gid_t group)
{
    gid_t ours[256];
    int n = getgroups(256, ours);

    while (n > 0 && ours[n - 1] != group)
        n--;
    return n > 0 || group == getegid();
}
#endif


/* Describes an open file or, if `path` is given, what the path names now; a
 * link at its end counts as a link. On failure *out is all zeros. */
static int
kaws__disk_stat(int fd, const char *path, kaws__stat *out)
{
#if defined(_WIN32)
    BY_HANDLE_FILE_INFORMATION st;
    int opened = -1, os = 0;

    memset(out, 0, sizeof *out);
    if (path != NULL)
        os = kaws__disk_open(path, KAWS__READ, &opened);
    if (os == 0 && !GetFileInformationByHandle(
            KAWS__HANDLE(path != NULL ? opened : fd), &st))
        os = kaws__disk_errno(NULL);
    kaws__disk_close(opened);
    if (os != 0)
        return os;
    out->dev = st.dwVolumeSerialNumber;
    out->ino = (uint64_t)st.nFileIndexHigh << 32 | st.nFileIndexLow;
    out->size = (uint64_t)st.nFileSizeHigh << 32 | st.nFileSizeLow;
    out->links = st.nNumberOfLinks;
    out->mtime_ns = kaws__sys_ns(st.ftLastWriteTime);
    out->regular = (st.dwFileAttributes & (FILE_ATTRIBUTE_DIRECTORY |
                                           FILE_ATTRIBUTE_REPARSE_POINT)) == 0;
    out->mine = 1;
#else
    struct stat st;

    memset(out, 0, sizeof *out);
    /* cppcheck-suppress invalidFunctionArg ; -1: there is a path             */
    if ((path != NULL ? lstat(path, &st) : fstat(fd, &st)) != 0)
        return errno;
    out->dev = (uint64_t)st.st_dev;
    out->ino = (uint64_t)st.st_ino;
    out->size = (uint64_t)st.st_size;
    out->links = (uint64_t)st.st_nlink;
    out->stored = (uint64_t)st.st_blocks * 512;
    out->mtime_ns = kaws__sys_ns(st.KAWS__MTIME);
    out->ctime_ns = kaws__sys_ns(st.KAWS__CTIME);
    out->regular = S_ISREG(st.st_mode);
    out->mine = st.st_uid == geteuid();
    out->roots = st.st_uid == 0;
    out->others_read = (st.st_mode & (S_IRGRP | S_IROTH)) != 0;
    out->others_write = (st.st_mode & (S_IWGRP | S_IWOTH)) != 0;
    out->lent = st.st_uid == 0 && kaws__disk_in_group(st.st_gid) &&
                (S_ISDIR(st.st_mode) ? (st.st_mode & 0072) == 0070
                                     : (st.st_mode & 0577) == 0440);
#endif
    return 0;
}


/* Reads into `to` or, if `to` is NULL, writes `from`, until all is done, the
 * file ends, or a call fails. *done is the number of bytes transferred. */
static int
kaws__disk_transfer(int fd, uint64_t offset, uint8_t *to, const uint8_t *from,
                    size_t len, size_t *done)
{
    for (*done = 0; *done < len;) {
        uint64_t at = offset + *done;
        size_t left = len - *done;
#if defined(_WIN32)
        OVERLAPPED where = { .Offset = (DWORD)at,
                             .OffsetHigh = (DWORD)(at >> 32) };
        DWORD n = left < 0x1000000 ? (DWORD)left : 0x1000000;
        BOOL good = to != NULL ? ReadFile(KAWS__HANDLE(fd), to + *done, n, &n,
                                          &where)
                               : WriteFile(KAWS__HANDLE(fd), from + *done, n,
                                           &n, &where);
        if (!good && GetLastError() != ERROR_HANDLE_EOF)
            return kaws__disk_errno(NULL);
#else
        ssize_t n;
        int os;
        KAWS__CALL(os, n = to != NULL
                   ? pread(fd, to + *done, left, (off_t)at)
                   : pwrite(fd, from + *done, left, (off_t)at));
        if (os != 0)
            return os;
#endif
        if (n == 0)
            return to != NULL ? 0 : EIO;
        *done += (size_t)n;
    }
    return 0;
}


static int
kaws__disk_read_at(int fd, uint64_t offset, void *out, size_t len, size_t *got)
{
    return kaws__disk_transfer(fd, offset, out, NULL, len, got);
}


/* A short write is not an error yet: the next call writes the rest, or fails
 * with the cause. */
static int
kaws__disk_write_at(int fd, uint64_t offset, const void *data, size_t len,
                    size_t *done)
{
    return kaws__disk_transfer(fd, offset, NULL, data, len, done);
}


/* Syncs the data, and as much of the metadata as it takes to read it back. */
static int
kaws__disk_sync(int fd)
{
    int os;

#if defined(_WIN32)
    os = FlushFileBuffers(KAWS__HANDLE(fd)) ? 0 : kaws__disk_errno(NULL);
#elif defined(F_FULLFSYNC)
    KAWS__CALL(os, fcntl(fd, F_FULLFSYNC));
#else
    KAWS__CALL(os, fdatasync(fd));
#endif
    return os;
}


/* Makes the names in a folder durable. If a file system cannot sync folders,
 * the call fails with EINVAL (on Windows EACCES or EOPNOTSUPP). We accept that,
 * because we can do nothing more. */
static int
kaws__disk_sync_dir(int fd)
{
#if defined(_WIN32)
    int os = kaws__disk_sync(fd);

    os = os == EACCES || os == EOPNOTSUPP ? 0 : os;
#else
    int os;

    KAWS__CALL(os, fsync(fd));
#endif
    return os == EINVAL ? 0 : os;
}


static int
kaws__disk_truncate(int fd, uint64_t len)
{
#if defined(_WIN32)
    return _chsize_s(fd, (int64_t)len);
#else
    int os;

    KAWS__CALL(os, ftruncate(fd, (off_t)len));
    return os;
#endif
}


/* ---- names -------------------------------------------------------------- */

/* Linux has renameat2() and statx(), but its libc may not have them, or may
 * hide them. So we call both by number. */


/* Renames as `how` says. RENAME_NEW fails with EEXIST if something has the
 * name; if it has to use link(), `from` stays as a second name. ENOSYS: the
 * kernel or the file system cannot do it, or a sandbox forbids it. (EPERM comes
 * from a sandbox, or from the file; if it is from the file, the plain rename
 * that the caller tries next fails, too.) Windows cannot replace a file that
 * another program, such as a virus scanner, has open and does not share: we
 * wait for that program, a second at most. */
static int
kaws__disk_rename(const char *from, const char *to, int how)
{
#if defined(_WIN32)
    WCHAR wide_from[MAX_PATH], wide_to[MAX_PATH];
    DWORD flags = MOVEFILE_WRITE_THROUGH |
                  (how == KAWS__REPLACE ? MOVEFILE_REPLACE_EXISTING : 0);
    int os = kaws__disk_wide(from, wide_from), tries = 0;

    if (os == 0)
        os = kaws__disk_wide(to, wide_to);
    if (os != 0 || how == KAWS__EXCHANGE)
        return os != 0 ? os : ENOSYS;
    while (!MoveFileExW(wide_from, wide_to, flags)) {
        os = kaws__disk_errno(wide_to);
        if (os != EACCES || ++tries == 100)
            return os;
        Sleep(10);
    }
    return 0;
#else
    if (how == KAWS__REPLACE)
        return rename(from, to) != 0 ? errno : 0;
    errno = ENOSYS;
#if defined(SYS_renameat2)
    if (kaws__sys_call(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, how) == 0)
        return 0;
#endif
    if (errno != EINVAL && errno != EPERM && errno != EOPNOTSUPP &&
        errno != ENOSYS)
        return errno;
    if (how == KAWS__RENAME_NEW && link(from, to) == 0)
        return 0;
    return how == KAWS__RENAME_NEW && errno == EEXIST ? EEXIST : ENOSYS;
#endif
}


/* Whether something is mounted on that very name. */
static int
kaws__disk_is_mount(const char *path)
{
#if defined(SYS_statx)
    uint64_t x[32] = { 0 };       /* 1: attributes; 0x2000: a mount's root    */

    (void)kaws__sys_call(SYS_statx, AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0, x);
    return (x[1] & 0x2000) != 0;
#else
    (void)path;
    return 0;
#endif
}


/* Returns 0 if we may change names in the folder, otherwise the reason (errno).
 */
static int
kaws__disk_may_change(const char *dir)
{
#if defined(_WIN32)
    (void)dir;
    return 0;
#else
    return faccessat(AT_FDCWD, dir, W_OK | X_OK, AT_EACCESS) != 0 ? errno : 0;
#endif
}


/* Removes the file if it is there. */
static int
kaws__disk_remove(const char *path)
{
#if defined(_WIN32)
    WCHAR wide[MAX_PATH];
    int os = kaws__disk_wide(path, wide);

    if (os == 0 && !DeleteFileW(wide))
        os = kaws__disk_errno(wide);
#else
    int os = unlink(path) != 0 ? errno : 0;
#endif
    return os == ENOENT ? 0 : os;
}


static int
kaws__disk_make_dir(const char *path)
{
#if defined(_WIN32)
    WCHAR wide[MAX_PATH];
    int os = kaws__disk_wide(path, wide);

    return os != 0 || CreateDirectoryW(wide, NULL) ? os
                                                   : kaws__disk_errno(NULL);
#else
    return mkdir(path, 0750) != 0 ? errno : 0;
#endif
}


/* ---- file locks --------------------------------------------------------- */

/* A file has two locks, in slots 0 and 1. A lock must belong to the open file,
 * not to the process: closing another descriptor of the same file must not
 * release it, and two rings in one process must exclude each other. The caller
 * never takes a lock that it holds already. */

#if defined(_WIN32)

/* The byte that stands for a slot. It is far behind any data, because on
 * Windows nobody else can read a locked byte. */
#define KAWS__SLOT(slot)                                                      \
    { .OffsetHigh = 0x40000000, .Offset = 2 * (DWORD)(slot) }

#else

/* F_OFD_SETLK sets the lock, and F_OFD_GETLK tells in *type which other lock is
 * in its way. On Linux <fcntl.h> may be hiding them. A system without them has
 * flock() instead, which knows one lock per file: we use it for slot 1, the
 * lock that excludes other writers. Slot 0 then always seems free, so we cannot
 * tell who else has the file open. */
#if defined(__linux__)
enum { KAWS__GETLK = 36, KAWS__SETLK = 37 };
#elif defined(F_OFD_SETLK)
enum { KAWS__GETLK = F_OFD_GETLK, KAWS__SETLK = F_OFD_SETLK };
#else
#define KAWS__FLOCK
enum { KAWS__GETLK, KAWS__SETLK };
#endif


static int
kaws__disk_lock_call(int fd, int call, int slot, short *type)
{
#if defined(KAWS__FLOCK)
    int how = *type == F_UNLCK ? LOCK_UN : *type == F_WRLCK ? LOCK_EX : LOCK_SH;

    *type = F_UNLCK;
    if (slot == 0 || call == KAWS__GETLK || flock(fd, how | LOCK_NB) == 0)
        return 0;
    return errno == EWOULDBLOCK ? EAGAIN : errno;
#else
    struct flock range = { .l_type = *type, .l_whence = SEEK_SET,
                           .l_start = slot, .l_len = 1 };
    int os;

    KAWS__CALL(os, fcntl(fd, call, &range));
    *type = range.l_type;
    return os == EACCES ? EAGAIN
         : os == EINVAL ? ENOSYS : os;    /* an old kernel, or a sandbox      */
#endif
}

#endif


/* Returns 0, or EAGAIN as long as another open file holds the lock. On Windows
 * it tries a shared lock again for a moment, because another process may hold
 * the lock only to ask whether it is held (kaws__disk_locked_by_others). */
static int
kaws__disk_lock(int fd, int slot, int exclusive)
{
#if defined(_WIN32)
    DWORD how = exclusive ? LOCKFILE_EXCLUSIVE_LOCK : 0;
    OVERLAPPED at = KAWS__SLOT(slot);
    int tries = exclusive ? 1 : 20, os;

    while (!LockFileEx(KAWS__HANDLE(fd), how | LOCKFILE_FAIL_IMMEDIATELY, 0, 1,
                       0, &at)) {
        os = kaws__disk_errno(NULL);
        if (os != EAGAIN || --tries == 0)
            return os;
        Sleep(1);
    }
    return 0;
#else
    short type = exclusive ? F_WRLCK : F_RDLCK;

    return kaws__disk_lock_call(fd, KAWS__SETLK, slot, &type);
#endif
}


/* Releases the lock. Returns whether it was held. (POSIX does not say; there it
 * returns 1.) */
static int
kaws__disk_unlock(int fd, int slot)
{
#if defined(_WIN32)
    OVERLAPPED at = KAWS__SLOT(slot);

    return UnlockFileEx(KAWS__HANDLE(fd), 0, 1, 0, &at);
#else
    short type = F_UNLCK;

    return kaws__disk_lock_call(fd, KAWS__SETLK, slot, &type) == 0;
#endif
}


/* Whether another open file holds the lock. We hold it shared, or not at all.
 * Windows cannot tell, so there we release it and try to get it exclusively. */
static int
kaws__disk_locked_by_others(int fd, int slot)
{
#if defined(_WIN32)
    int shared = kaws__disk_unlock(fd, slot);
    int os = kaws__disk_lock(fd, slot, 1);

    if (os == 0)
        (void)kaws__disk_unlock(fd, slot);
    while (shared && kaws__disk_lock(fd, slot, 0) == EAGAIN)
        continue;
    return os != 0;
#else
    short type = F_WRLCK;

    return kaws__disk_lock_call(fd, KAWS__GETLK, slot, &type) == 0 &&
           type != F_UNLCK;
#endif
}


/* ==========================================================================
 * ROOM  child    programs that we start
 * ==========================================================================
 * Uses: sys
 * Gives: child_start child_read child_ended child_end
 *
 * A program that we start reads /dev/null, writes to us, and has nowhere to
 * complain: what it says on stderr may hold secrets. It has a process group of
 * its own, so that it can be ended together with all that it has started. It
 * begins with no signal blocked or ignored, whatever this process does with
 * its signals, and where the system can, it inherits no other descriptor. We
 * change nothing in this process's handling of signals, and wait for no other
 * child of it. On Windows no program is started.
 */

#if defined(_WIN32)
#define KAWS__CHILDREN 0
#else
#define KAWS__CHILDREN 1
#endif

typedef struct kaws__child {
    long pid;
    int  fd;                      /* what it writes; -1: no more will come    */
} kaws__child;


/* The environment of this process, by a name that no header can be hiding. */
#if defined(__APPLE__)
#define KAWS__ENVIRON (*_NSGetEnviron())
#elif defined(__GLIBC__)
#define KAWS__ENVIRON __environ
#elif !defined(_WIN32)
#define KAWS__ENVIRON environ

extern char **environ;
#endif


#if !defined(_WIN32)
/* Makes a pipe that no other child inherits. */
static int
kaws__child_pipe(int ends[2])
{
#if defined(__linux__)
    return kaws__sys_call(SYS_pipe2, ends, O_CLOEXEC) != 0 ? errno : 0;
#else
    if (pipe(ends) != 0)
        return errno;
    (void)fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    (void)fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    return 0;
#endif
}


/* The program's descriptors. Its end of the pipe is moved first, since it may
 * be 0 or 2 if this process has closed those. */
static int
kaws__child_files(posix_spawn_file_actions_t *files, int end)
{
    const char *const null = "/dev/null", *name;
    int (*close_from)(posix_spawn_file_actions_t *, int);
    void *symbol;
    int os = posix_spawn_file_actions_adddup2(files, end, 1);

    if (os == 0)
        os = posix_spawn_file_actions_addopen(files, 0, null, O_RDONLY, 0);
    if (os == 0)
        os = posix_spawn_file_actions_addopen(files, 2, null, O_WRONLY, 0);
    name = "posix_spawn_file_actions_addclosefrom_np";
    symbol = dlsym(KAWS__FIRST, name);    /* newer than the oldest glibc      */
    memcpy(&close_from, &symbol, sizeof close_from);
    return os == 0 && symbol != NULL ? close_from(files, 3) : os;
}
#endif


/* Starts the program argv[0], a path. Returns 0 or an errno. End it with
 * kaws__child_end. */
static int
kaws__child_start(kaws__child *c, char *const argv[])
{
#if defined(_WIN32)
    (void)argv;
    *c = (kaws__child){ .fd = -1 };
    return ENOSYS;
#else
    static char path[] = "PATH=/usr/bin:/bin";
    char *const bare[] = { path, NULL };
    posix_spawn_file_actions_t files;
    posix_spawnattr_t how;
    sigset_t signals;
    int ends[2], os = kaws__child_pipe(ends);
    pid_t pid = 0;

    *c = (kaws__child){ .fd = -1 };
    if (os != 0)
        return os;
    c->fd = ends[0];
    if ((os = posix_spawn_file_actions_init(&files)) == 0) {
        os = kaws__child_files(&files, ends[1]);
        if (os == 0 && (os = posix_spawnattr_init(&how)) == 0) {
            (void)posix_spawnattr_setflags(&how, POSIX_SPAWN_SETPGROUP |
                                           POSIX_SPAWN_SETSIGMASK |
                                           POSIX_SPAWN_SETSIGDEF);
            (void)posix_spawnattr_setpgroup(&how, 0);
            (void)sigemptyset(&signals);
            (void)posix_spawnattr_setsigmask(&how, &signals);
            (void)sigfillset(&signals);
            (void)sigdelset(&signals, SIGKILL);
            (void)sigdelset(&signals, SIGSTOP);
            (void)posix_spawnattr_setsigdefault(&how, &signals);
            os = posix_spawn(&pid, argv[0], &files, &how, argv,
                             kaws__sys_is_lent() ? bare : KAWS__ENVIRON);
            (void)posix_spawnattr_destroy(&how);
        }
        (void)posix_spawn_file_actions_destroy(&files);
    }
    close(ends[1]);
    c->pid = (long)pid;
    if (os != 0)
        close(c->fd);
    return os;
#endif
}


/* Waits for at most `ms`, and reads what has come. Returns the number of bytes;
 * 0: none have come, or c->fd is -1 now. */
static size_t
kaws__child_read(kaws__child *c, void *to, size_t room, int ms)
{
#if defined(_WIN32)
    (void)c, (void)to, (void)room, (void)ms;
    return 0;
#else
    struct pollfd one = { .fd = c->fd, .events = POLLIN };
    ssize_t got;
    int os;

    if (poll(&one, 1, ms) <= 0)           /* fd -1: just waits                */
        return 0;
    KAWS__CALL(os, got = read(c->fd, to, room));
    if (os == 0 && got > 0)
        return (size_t)got;
    close(c->fd);
    c->fd = -1;
    return 0;
#endif
}


/* Has the program ended? What it has started may still run. Until
 * kaws__child_end its number is not given to another program, unless this
 * process ignores SIGCHLD or somebody waits for all children. */
static int
kaws__child_ended(const kaws__child *c)
{
#if defined(_WIN32)
    (void)c;
    return 1;
#else
    siginfo_t info = { 0 };
    int os;

    KAWS__CALL(os, waitid(P_PID, (id_t)c->pid, &info,
                          WEXITED | WNOHANG | WNOWAIT));
    return os != 0 || info.si_pid != 0;
#endif
}


/* Ends the program, if it has not ended, and what it has started. Returns its
 * exit status; 0 if nobody can know it, because this process ignores SIGCHLD;
 * or less than 0, the number of the signal that ended it. */
static int
kaws__child_end(kaws__child *c)
{
#if defined(_WIN32)
    (void)c;
    return 0;
#else
    siginfo_t info = { 0 };
    int status = 0, tries = 100, os;
    pid_t pid = (pid_t)c->pid, got = 0;

    KAWS__CALL(os, waitid(P_PID, (id_t)pid, &info,
                          WEXITED | WNOHANG | WNOWAIT));
    if (os == 0 || c->fd >= 0)            /* the group is still there         */
        (void)kill(-pid, SIGKILL);
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    while (os == 0 && (got = waitpid(pid, &status, WNOHANG)) == 0 &&
           tries-- > 0)                   /* but not for a disk that hangs    */
        kaws__sys_sleep_ms(NULL, 10);
    return got != pid ? 0 : WIFEXITED(status) ? WEXITSTATUS(status)
         : -WTERMSIG(status);
#endif
}


/* ==========================================================================
 * ROOM  err      one sentence for the person who has to correct it
 * ==========================================================================
 * Uses: sys disk
 * Gives: err_put err_clear err_set err_os err_decimal err_memory err_argument
 *        err_cancelled err_log err_others kaws_status_text kaws_version
 *
 * An error is filled once, in the room that knows most, and passed on as it
 * is. The sentence says what we were doing, to what, what went wrong and, if
 * we know it, what to do. It never holds a secret, a signature or a reply. It
 * is one line of printable ASCII, whatever a caller put into it. If a sentence
 * is too long for its array, it is cut, because half of it is better than
 * nothing.
 *
 * Every function here accepts err == NULL, and then fills nothing.
 *
 * What no function returns to its caller is logged. Each line that can be
 * logged is a row of the table below, and begins with its tag, [KAWS-101].
 * People search for the tag, and the page keyring_aws-messages explains each
 * one. After a change of a row, run tests/package/messages.py.
 */

enum { KAWS__WARNING = 1, KAWS__NOTE = 2, KAWS__ERR_LINE = 1024 };

/* name, number, level, format. A number never changes its meaning, and is not
 * used again if its line is removed. 101 to 299 belong to the library, and 301
 * and above to the MySQL plugin. */
#define KAWS__LOG_OPENED       101, KAWS__NOTE, "opened %s: %s; version "      \
    KAWS_VERSION ", KMS key %s in %s, requests go to %s, accounts trusted: "   \
    "%s, access key id ends in %s, timeouts %d ms to connect and %d ms in all"
#define KAWS__LOG_CHANGED      102, KAWS__NOTE, "%s %s: %s"
#define KAWS__LOG_OWNER        103, KAWS__WARNING, "%s %s belongs to another " \
    "user: make the user that this process runs as its owner, then run chmod " \
    "%s"
#define KAWS__LOG_MODE         104, KAWS__WARNING, "%s %s may be %s by "       \
    "others than its owner: run chmod %s"
#define KAWS__LOG_PROXY        105, KAWS__WARNING, "%s in the environment %s;" \
    " this matters only if no_proxy does not name AWS KMS's host"
#define KAWS__LOG_TLS_KEYS     106, KAWS__WARNING, "SSLKEYLOGFILE is set in "  \
    "the environment: libcurl may write its TLS keys to that file, and anyone "\
    "who can read it can read what AWS KMS sends; unset it"
#define KAWS__LOG_NEWER        107, KAWS__NOTE, "AWS refused the "             \
    "credentials; %s %s has newer ones, which are used from now on: their "    \
    "access key id ends in %s"
#define KAWS__LOG_NO_NEWER     108, KAWS__WARNING, "AWS refuses the "          \
    "credentials, and reading them again failed: %s"
#define KAWS__LOG_ALIAS        109, KAWS__WARNING, "the KMS key %s was %s and "\
    "is %s now, which seals from here on; if nobody meant to move the alias, " \
    "set the KMS key by its ARN"
#define KAWS__LOG_NO_DRY_RUN   110, KAWS__NOTE, "this KMS knows no dry run: "  \
    "it decrypts each blob that it should only check; AWS KMS would not"
#define KAWS__LOG_UNPROVED     111, KAWS__WARNING, "keys are stored without "  \
    "the proof that AWS KMS can open them, because kms:Decrypt is not "        \
    "allowed: allow it, or no key can be fetched"
#define KAWS__LOG_CLOCK_AGREES 112, KAWS__WARNING, "this machine's clock "     \
    "agrees with that of AWS again: requests are signed with its own time"
#define KAWS__LOG_CLOCK        113, KAWS__WARNING, "this machine's clock is "  \
    "%ld seconds %s that of AWS: requests are signed with AWS's time; set the "\
    "clock"
#define KAWS__LOG_MADE_FOLDER  114, KAWS__WARNING, "made the folder %s for "   \
    "the data file; if the keyring has been in use, is its volume mounted?"
#define KAWS__LOG_IN_USE       115, KAWS__WARNING, "the data file %s is in "   \
    "use by another process, too%s; once one of them has removed or re-"       \
    "wrapped keys, the other changes nothing until it is refreshed; if that "  \
    "is not meant, give each a file of its own"
#define KAWS__LOG_UNLOCKED     116, KAWS__WARNING, "the data file is read "    \
    "without a lock, and is checked by its digests alone: %s"
#define KAWS__LOG_LINKS        117, KAWS__WARNING, "the data file %s has %s "  \
    "names (hard links), so it cannot be replaced, and %s; remove the other "  \
    "names"
#define KAWS__LOG_MOUNT        118, KAWS__WARNING, "the data file %s is a "    \
    "mount point, so it cannot be replaced, and %s; mount its folder instead"
#define KAWS__LOG_FOLDER       119, KAWS__WARNING, "the folder %s cannot be "  \
    "changed, so %s (%s): let this process's user write to it"
#define KAWS__LOG_TORN         120, KAWS__WARNING, "the end of the data file " \
    "%s, %s byte%s, is an entry whose writing was cut off before it was "      \
    "acknowledged; it was moved to %s%s, which you may delete"
#define KAWS__LOG_TORN_LEFT    121, KAWS__WARNING, "the end of the data file " \
    "%s, %s byte%s, is an entry that was never acknowledged; it is not "       \
    "read, and left as it is"
#define KAWS__LOG_UNSETTLED    122, KAWS__WARNING, "%s; keys can be read"
#define KAWS__LOG_NEW_FILE     123, KAWS__WARNING, "there was no data file "   \
    "%s, so a new, empty keyring was made; if one has been in use, is its "    \
    "volume mounted? To have a missing file refused from now on, set "         \
    "must_exist (keyring_aws_create = OFF; of the component, create to false)"
#define KAWS__LOG_CLOSING      124, KAWS__WARNING, "the keyring was closed, "  \
    "but its length could not be recorded; no key is lost: %s"
#define KAWS__LOG_ROTATION     125, KAWS__WARNING, "AWS KMS has accepted the " \
    "rotation of %s, but %s%s"
#define KAWS__LOG_NOT_RENEWED  126, KAWS__WARNING, "all keys were re-wrapped, "\
    "but with the key material they had before: nothing was renewed; rotate "  \
    "the KMS key first, or set another"
#define KAWS__LOG_FIRST_ACCOUNT 127, KAWS__NOTE, "the settings name neither "  \
    "accounts nor an ARN, and the keyring has no key yet: so the account of "  \
    "this KMS key is trusted from here on, %s (%s)"
#define KAWS__LOG_TIMEOUTS     129, KAWS__WARNING, "connect_timeout is %d ms, "\
    "but timeout, which limits the whole operation, is %d ms: no connection "  \
    "can take longer than that"
#define KAWS__LOG_NEW_REGION   130, KAWS__WARNING, "the region %s is not "     \
    "among those that this version knows: is it a typing error? AWS adds "     \
    "regions, so it is used all the same"
#define KAWS__LOG_REGION       132, KAWS__WARNING, "region is %s, but the ARN "\
    "of the KMS key is in %s%s: requests for it go there"
#define KAWS__LOG_KEY_ID       133, KAWS__WARNING, "the KMS key '%s' is "      \
    "looked up as a key id, but key ids are longer: if it is an alias, write " \
    "alias/ before it"
#define KAWS__LOG_CREDS_OLD    141, KAWS__WARNING, "the AWS credentials will " \
    "expire soon, and newer ones could not be had; they are used for now: %s"
#define KAWS__LOG_NO_CREDS     142, KAWS__WARNING, "there are no AWS "         \
    "credentials yet; each call that needs AWS KMS looks for them again, and " \
    "fails until there are some: %s"
#define KAWS__LOG_ADDED        146, KAWS__NOTE, "another process has added "   \
    "to the data file %s: %s; before, %s"
#define KAWS__LOG_REFRESHED    147, KAWS__WARNING, "the data file %s was read "\
    "again, because a refresh was asked for: %s; before, %s"
#define KAWS__LOG_NO_PAGE      153, KAWS__WARNING, "no key is kept in "        \
    "memory, because no page can be locked: %s (errno %d); allow the process " \
    "to lock 64 KiB (RLIMIT_MEMLOCK; in systemd LimitMEMLOCK)"
#define KAWS__LOG_NO_PAGE_KEY  154, KAWS__WARNING, "no key is kept in memory " \
    "any more, because the system provided no random bytes"
#define KAWS__LOG_ALTERED      155, KAWS__WARNING, "a key that is kept in "    \
    "memory, encrypted, has been altered there: all of them were wiped, and "  \
    "are fetched again; is the machine's memory sound?"
#define KAWS__LOG_UNREACHABLE  160, KAWS__WARNING, "AWS KMS at %s is "         \
    "unreachable%s: until it answers, calls %s (while a server starts, they "  \
    "wait), except one every 0.25 to 5 s, which tries; the error was: %s"
#define KAWS__LOG_REACHABLE    161, KAWS__NOTE, "AWS KMS at %s answers again " \
    "after %ld s; %s call%s failed meanwhile"
#define KAWS__LOG_IDENTITY     165, KAWS__NOTE, "the AWS credentials come "    \
    "from %s %s; they belong to %s, their access key id ends in %s, and they " \
    "expire: %s"
#define KAWS__LOG_NO_FIPS      166, KAWS__WARNING, "fips is on, but as far "   \
    "as this version knows, %s has no FIPS host in the region %s: no request " \
    "will reach one there; use another region, or switch fips off"
#define KAWS__LOG_FIPS_AS_SET  167, KAWS__WARNING, "fips is on, but %s is "    \
    "set, and is used as it is: see that %s is a FIPS host"
#define KAWS__LOG_TLS          168, KAWS__NOTE, "%s answers over %s%s%s"
#define KAWS__LOG_AWAY         170, KAWS__WARNING, "AWS KMS in %s answers in " \
    "place of %s, which does not answer%s: %s"
#define KAWS__LOG_HOME         171, KAWS__NOTE, "AWS KMS in %s answers itself "\
    "again; for %ld s another region did, %s time%s"
#define KAWS__LOG_SPILLED      172, KAWS__WARNING, "AWS KMS in %s %s, and %s " \
    "answers those in its place (at most one such line an hour): %s"
#define KAWS__LOG_NOT_READY    173, KAWS__WARNING, "the failover region %s "   \
    "could not answer in place of %s, should that fail; %s%s"
#define KAWS__LOG_READY        174, KAWS__NOTE, "checked: %s can answer in "   \
    "place of %s, should that fail"
#define KAWS__LOG_NO_ROUTE     175, KAWS__WARNING, "failover_regions is set, " \
    "but the KMS key %s, which %s, is not a multi-region key (its id would "   \
    "begin with mrk-): what it seals opens in its own region only"
#define KAWS__LOG_NO_OTHER     176, KAWS__WARNING, "failover_regions lists "   \
    "only %s, the KMS key's own region, so no other can answer in its place: " \
    "add the regions of its replicas"

/* see Part II */
KAWS_API const char *
kaws_version(void)
{
    return KAWS_VERSION;
}


/* see Part II */
KAWS_API const char *
kaws_status_text(kaws_status status)
{
    static const char *const texts[] = {
#define KAWS__STATUS_TEXT(name, text) text,
        KAWS_STATUSES(KAWS__STATUS_TEXT)
    };

    return (int)status >= 0 && status < KAWS_STATUS_COUNT
         ? texts[status] : "no such status";
}


/* Appends a byte to a text for a log. A byte that is not printable ASCII, or is
 * in `also`, is escaped, so no byte can end the line or colour the terminal.
 * Returns 0 and changes nothing if there is no room. */
static int
kaws__err_put(char *out, size_t cap, size_t *used, int c, const char *also)
{
    int plain = c >= 0x20 && c <= 0x7e && strchr(also, c) == NULL;
    char code[8] = { (char)c };
    size_t n = 1;

    if (!plain)
        n = (size_t)snprintf(code, sizeof code, "\\x%02x", (unsigned)c);
    if (*used + n >= cap)
        return 0;
    memcpy(out + *used, code, n + 1);
    *used += n;
    return 1;
}


/* Every text of an error or of the log is written here. */
KAWS__PRINTF(3, 0)
static void
kaws__err_write(char *out, size_t cap, const char *format, va_list args)
{
    char raw[KAWS__ERR_LINE] = "";
    size_t i = 0, used = 0;

    (void)vsnprintf(raw, sizeof raw, format, args);
    out[0] = '\0';
    while (raw[i] != '\0' &&
           kaws__err_put(out, cap, &used, (uint8_t)raw[i], ""))
        i++;
}


static void
kaws__err_clear(kaws_error *err)
{
    if (err != NULL)
        memset(err, 0, sizeof *err);
}


/* Fills the error; its own text may be an argument, to be part of the new one.
 * If a system call failed, `os` is its errno (else 0), and the system's reason
 * ends the sentence. Even if a path is long, there is room for the reason. */
KAWS__PRINTF(4, 5)
static void
kaws__err_fill(kaws_error *err, kaws_status status, int os,
               const char *format, ...)
{
    char why[160] = "";
    va_list args;

    if (err == NULL)
        return;
    if (os != 0) {
        err->os = os;
        (void)snprintf(why, sizeof why, ": %s (errno %d)",
                       kaws__sys_error_text(os), os);
    }
    err->status = status;
    va_start(args, format);
    kaws__err_write(err->text, sizeof err->text - strlen(why), format, args);
    va_end(args);
    memcpy(err->text + strlen(err->text), why, strlen(why) + 1);
}


/* Each fills the error, and its value is the status. They are macros because
 * neither compiler nor analyzer looks into a function with `...`, but both
 * should see which status is returned. */
#define kaws__err_set(err, status, ...) \
    (kaws__err_fill(err, status, 0, __VA_ARGS__), (status))
#define kaws__err_os(err, status, os, ...) \
    (kaws__err_fill(err, status, os, __VA_ARGS__), (status))


/* The number in decimal. %lu would cut it where a long has 32 bits. */
static const char *
kaws__err_decimal(char out[24], uint64_t n)
{
    size_t i = 23;

    do
        out[--i] = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    return out + i;
}


#define KAWS__DECIMAL(n) kaws__err_decimal((char[24]){ "" }, n)

/* For "%s key%s": the number, and the plural's s. */
#define KAWS__COUNT(n) KAWS__DECIMAL(n), (n) == 1 ? "" : "s"


/* We got no memory for `doing`, or could not make a lock, which takes memory,
 * too. */
static kaws_status
kaws__err_memory(kaws_error *err, const char *doing)
{
    return kaws__err_set(err, KAWS_MEMORY, "%s: out of memory", doing);
}


static kaws_status
kaws__err_argument(kaws_error *err, const char *wrong)
{
    return kaws__err_set(err, KAWS_ARGUMENT, "bad argument: %s", wrong);
}


static kaws_status
kaws__err_cancelled(kaws_error *err, const char *waited_for)
{
    return kaws__err_set(err, KAWS_CANCELLED, "the call was cancelled while it "
                         "waited for %s, and nothing was changed", waited_for);
}


/* Logs a row of the table: kaws__err_log(hooks, KAWS__LOG_MODE, ...). */
KAWS__PRINTF(4, 5)
static void
kaws__err_log(const kaws_hooks *hooks, int number, int level,
              const char *format, ...)
{
    char line[KAWS__ERR_LINE];
    int tag;
    va_list args;

    if (hooks->log == NULL)
        return;
    tag = snprintf(line, sizeof line, "[KAWS-%d] ", number);
    va_start(args, format);
    kaws__err_write(line + tag, sizeof line - (size_t)tag, format, args);
    va_end(args);
    hooks->log(hooks->ctx, level, line);
}


/* Warns if other users than this process's can change a file or folder, or read
 * a file. Reading the names in a folder does no harm. */
static void
kaws__err_others(const kaws_hooks *hooks, const char *what, const char *shown,
                 const kaws__stat *st)
{
    const char *mode = st->regular ? "600" : "700";

    if (!st->mine && (st->regular || !st->lent))
        kaws__err_log(hooks, KAWS__LOG_OWNER, what, shown, mode);
    else if (st->mine && (st->others_write ||
                          (st->others_read && st->regular)))
        kaws__err_log(hooks, KAWS__LOG_MODE, what, shown,
                      st->others_write ? "written" : "read", mode);
}


/* ==========================================================================
 * ROOM  mem      one allocator, one wipe
 * ==========================================================================
 * Uses: nothing
 * Gives: mem_builtin mem_resize mem_new mem_free mem_drop kaws_wipe
 *
 * All memory goes through kaws__mem_resize, which wipes every block before it
 * gives the block back: the room does not know what was in a block, so it
 * treats everything as a secret. A caller that has wiped all it wrote into a
 * large block gives that block to kaws__mem_drop.
 */

/* see Part II */
KAWS_API void
kaws_wipe(void *secret, size_t len)
{
    /* The call goes through a volatile pointer. So no compiler can know that
     * it is memset, and drop a write to memory that nobody reads again. */
    static void *(*const volatile set)(void *, int, size_t) = memset;

    if (secret != NULL && len > 0)
        set(secret, 0, len);
}


static void *
kaws__mem_builtin(void *ctx, void *ptr, size_t old_len, size_t new_len)
{
    (void)ctx;
    (void)old_len;
    if (new_len > 0)
        return malloc(new_len);
    free(ptr);
    return NULL;
}


/* Grows, shrinks (new_len > 0) or frees (new_len 0) a block. The hook only
 * allocates and frees: a realloc that moves a block would leave the old bytes
 * behind. */
static void *
kaws__mem_resize(const kaws_hooks *hooks, void *ptr, size_t old_len,
                 size_t new_len)
{
    void *fresh = NULL;

    if (new_len > 0) {
        fresh = hooks->memory(hooks->ctx, NULL, 0, new_len);
        if (fresh == NULL)
            return NULL;
        if (ptr != NULL)
            memcpy(fresh, ptr, old_len < new_len ? old_len : new_len);
    }
    if (ptr != NULL) {
        kaws_wipe(ptr, old_len);
        hooks->memory(hooks->ctx, ptr, old_len, 0);
    }
    return fresh;
}


/* A block of zeros. */
static void *
kaws__mem_new(const kaws_hooks *hooks, size_t len)
{
    void *fresh = kaws__mem_resize(hooks, NULL, 0, len);

    if (fresh != NULL)
        memset(fresh, 0, len);
    return fresh;
}


static void
kaws__mem_free(const kaws_hooks *hooks, void *ptr, size_t len)
{
    kaws__mem_resize(hooks, ptr, len, 0);
}


/* Frees a block without a wipe: its owner has wiped what was written. */
static void
kaws__mem_drop(const kaws_hooks *hooks, void *ptr, size_t len)
{
    if (ptr != NULL)
        hooks->memory(hooks->ctx, ptr, len, 0);
}


/* ==========================================================================
 * ROOM  buf      borrowed bytes, and places to write bytes to
 * ==========================================================================
 * Uses: mem
 * Gives: buf_of buf_same buf_begins buf_digest buf_init buf_fixed buf_free
 *        buf_grow buf_put buf_text buf_view buf_copy_text
 *
 * A kaws_bytes borrows: it is a pointer and a length, and is never freed. A
 * kaws__buf is what a builder writes to, without caring where the bytes go: to
 * a block that grows (hooks are set), to an array that may turn out too small,
 * or to a consumer such as a running hash (feed is set). A buffer that runs out
 * of room remembers that (failed), and ignores all later bytes. So a builder
 * checks only once, at the end.
 */

/* A 1 in each byte of a word, for work on eight bytes at once. */
#define KAWS__ONES 0x0101010101010101u

typedef struct kaws__buf {
    const kaws_hooks *hooks;
    uint8_t *at;
    size_t   len, max;
    int      failed;
    void   (*feed)(void *consumer, const void *data, size_t len);
    void    *consumer;
} kaws__buf;


static kaws_bytes
kaws__buf_of(const char *text)
{
    return (kaws_bytes){ (const uint8_t *)text, strlen(text) };
}


static int
kaws__buf_same(kaws_bytes a, kaws_bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.at, b.at, a.len) == 0);
}


/* Whether the text begins with `with`, and is longer. */
static int
kaws__buf_begins(kaws_bytes text, const char *with)
{
    return text.len > strlen(with) && memcmp(text.at, with, strlen(with)) == 0;
}


/* FNV-1a: eight bytes that stand for many. */
static uint64_t
kaws__buf_digest(kaws_bytes bytes)
{
    uint64_t n = 14695981039346656037u;
    size_t i;

    for (i = 0; i < bytes.len; i++)
        n = (n ^ bytes.at[i]) * 1099511628211u;
    return n;
}


static void
kaws__buf_init(kaws__buf *buf, const kaws_hooks *hooks)
{
    *buf = (kaws__buf){ .hooks = hooks };
}


/* A buffer over an array of the caller's. */
static kaws__buf
kaws__buf_fixed(void *array, size_t size)
{
    return (kaws__buf){ .at = array, .max = size };
}


static void
kaws__buf_free(kaws__buf *buf)
{
    kaws__mem_free(buf->hooks, buf->at, buf->max);
    buf->at = NULL;
    buf->len = buf->max = 0;
}


/* Makes room for `more` bytes at the end, which count as written. Returns their
 * place, or NULL if there is no room. */
static uint8_t *
kaws__buf_grow(kaws__buf *buf, size_t more)
{
    size_t need = buf->len + more;
    size_t max = buf->max < 512 ? 1024 : buf->max * 2;
    uint8_t *at = NULL;

    if (!buf->failed && need >= more && buf->hooks != NULL &&
        (need > buf->max || buf->at == NULL)) {
        max = max > need ? max : need;
        at = kaws__mem_resize(buf->hooks, buf->at, buf->max, max);
    }
    if (at != NULL) {
        buf->at = at;
        buf->max = max;
    }
    buf->failed |= need < more || need > buf->max;
    if (buf->failed)
        return NULL;
    buf->len = need;
    return buf->at + need - more;
}


static void
kaws__buf_put(kaws__buf *buf, const void *data, size_t len)
{
    uint8_t *at = NULL;

    if (len > 0 && buf->feed != NULL)
        buf->feed(buf->consumer, data, len);
    else if (len > 0)
        at = kaws__buf_grow(buf, len);
    if (at != NULL)
        memcpy(at, data, len);
}


/* Writes texts up to a NULL. It is called as kaws__buf_text(buf, "a", "b"). */
static void
kaws__buf_texts(kaws__buf *buf, ...)
{
    const char *text;
    va_list texts;

    va_start(texts, buf);
    while ((text = va_arg(texts, const char *)) != NULL)
        kaws__buf_put(buf, text, strlen(text));
    va_end(texts);
}


#define kaws__buf_text(buf, ...) \
    kaws__buf_texts(buf, __VA_ARGS__, (const char *)NULL)


/* Never NULL, even if nothing was written. */
static kaws_bytes
kaws__buf_view(const kaws__buf *buf)
{
    static const uint8_t none[1];

    return (kaws_bytes){ buf->at != NULL ? buf->at : none, buf->len };
}


/* Copies a view into a NUL-terminated array. Returns 0 if it does not fit, or
 * has a NUL in it. */
static int
kaws__buf_copy_text(char *out, size_t cap, kaws_bytes view)
{
    if (view.len == 0)
        view.at = (const uint8_t *)"";
    if (view.len >= cap || memchr(view.at, 0, view.len) != NULL)
        return 0;
    memcpy(out, view.at, view.len);
    out[view.len] = '\0';
    return 1;
}


/* ==========================================================================
 * ROOM  text     hex, base64, percent, UTF-8, dates, numbers
 * ==========================================================================
 * Uses: err mem buf
 * Gives: text_lower text_folded text_span text_order text_alike text_hex
 *        text_base64 text_unbase64 text_percent text_utf8 text_is_utf8
 *        text_userinfo text_show text_quote text_holds text_number
 *        text_amz_date text_http_date text_iso_date kaws_show
 *
 * Small conversions of ASCII and bytes. None of them depends on the locale.
 * Base64 carries keys in the clear, so its code has no branch and no table
 * index that depends on a key.
 */

static int
kaws__text_lower(int c)
{
    return c >= 'A' && c <= 'Z' ? c + 32 : c;
}


/* A letter, in lower case, or a digit; else 0. */
static int
kaws__text_folded(int c)
{
    c = kaws__text_lower(c);
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? c : 0;
}


/* How many letters, digits and bytes of `others` the text begins with. */
static size_t
kaws__text_span(kaws_bytes text, const char *others)
{
    size_t i = 0;

    while (i < text.len && text.at[i] != '\0' &&
           (kaws__text_folded(text.at[i]) ||
            strchr(others, text.at[i]) != NULL))
        i++;
    return i;
}


/* Compares as memcmp does; `folded`: as if all letters were in lower case. */
static int
kaws__text_order(kaws_bytes a, kaws_bytes b, int folded)
{
    size_t i;

    for (i = 0; i < a.len && i < b.len; i++) {
        int x = folded ? kaws__text_lower(a.at[i]) : a.at[i];
        int y = folded ? kaws__text_lower(b.at[i]) : b.at[i];
        if (x != y)
            return x - y;
    }
    return a.len < b.len ? -1 : a.len > b.len;
}


/* Equal but for the case of ASCII letters. */
static int
kaws__text_alike(kaws_bytes a, const char *b)
{
    return kaws__text_order(a, kaws__buf_of(b), 1) == 0;
}


/* Writes 2 * len digits and a NUL. */
static void
kaws__text_hex(char *out, const uint8_t *data, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    size_t i;

    for (i = 0; i < len; i++) {
        out[2 * i] = digits[data[i] >> 4];
        out[2 * i + 1] = digits[data[i] & 15];
    }
    out[2 * len] = '\0';
}


/* ---- base64 (RFC 4648, section 4) -------------------------------------- */

/* Eight digits are converted at once, one in each byte of a word, the first in
 * the highest byte. In the sums below each byte stays between 0 and 255, so no
 * byte changes its neighbour. The comments at the sums say why. */

/* A 1 in each byte that is `n` or more, else a 0. All bytes are under 128. */
static uint64_t
kaws__text_ge(uint64_t bytes, unsigned n)
{
    return (bytes + (128 - n) * KAWS__ONES) >> 7 & KAWS__ONES;
}


/* The digits of eight values under 64. Each value gets one offset, and one more
 * for each of 26, 52, 62 and 63 that it reaches. All sums are between 43 and
 * 134, so no byte carries. */
static uint64_t
kaws__text_to_digits(uint64_t six)
{
    return six + 65 * KAWS__ONES + 6 * kaws__text_ge(six, 26) -
           75 * kaws__text_ge(six, 52) - 15 * kaws__text_ge(six, 62) +
           3 * kaws__text_ge(six, 63);
}


/* The values of eight digits. Sets bits in *bad if one is no digit. A new
 * offset begins at '+', '/', '0', 'A' and 'a'; no byte becomes negative. */
static uint64_t
kaws__text_to_values(uint64_t digits, uint64_t *bad)
{
    uint64_t d = digits & 127 * KAWS__ONES;

    *bad |= digits ^ d;
    *bad |= KAWS__ONES ^ (kaws__text_ge(d, '+') - kaws__text_ge(d, ',') +
                          kaws__text_ge(d, '/') - kaws__text_ge(d, ':') +
                          kaws__text_ge(d, 'A') - kaws__text_ge(d, '[') +
                          kaws__text_ge(d, 'a') - kaws__text_ge(d, '{'));
    return d + 19 * KAWS__ONES - 3 * kaws__text_ge(d, '/') -
           12 * kaws__text_ge(d, '0') - 69 * kaws__text_ge(d, 'A') -
           6 * kaws__text_ge(d, 'a');
}


static uint64_t
kaws__text_load(const uint8_t *at)
{
    return (uint64_t)at[0] << 56 | (uint64_t)at[1] << 48 |
           (uint64_t)at[2] << 40 | (uint64_t)at[3] << 32 |
           (uint64_t)at[4] << 24 | (uint64_t)at[5] << 16 |
           (uint64_t)at[6] << 8 | at[7];
}


/* Six bytes become eight digits; the last two of the eight at `in` only have to
 * be readable. */
static void
kaws__text_encode(uint8_t out[8], const uint8_t in[8])
{
    uint64_t w = kaws__text_load(in) >> 16;

    w = (w & 0xffffff000000u) << 8 | (w & 0xffffffu);
    w = (w & 0x00fff00000fff000u) << 4 | (w & 0x00000fff00000fffu);
    w = (w & 0x0fc00fc00fc00fc0u) << 2 | (w & 0x003f003f003f003fu);
    w = kaws__text_to_digits(w);
    out[0] = (uint8_t)(w >> 56);
    out[1] = (uint8_t)(w >> 48);
    out[2] = (uint8_t)(w >> 40);
    out[3] = (uint8_t)(w >> 32);
    out[4] = (uint8_t)(w >> 24);
    out[5] = (uint8_t)(w >> 16);
    out[6] = (uint8_t)(w >> 8);
    out[7] = (uint8_t)w;
}


/* Eight digits become six bytes. */
static void
kaws__text_decode(uint8_t out[6], const uint8_t in[8], uint64_t *bad)
{
    uint64_t w = kaws__text_to_values(kaws__text_load(in), bad);

    w = (w & 0x3f003f003f003f00u) >> 2 | (w & 0x003f003f003f003fu);
    w = (w & 0x0fff00000fff0000u) >> 4 | (w & 0x00000fff00000fffu);
    w = (w & 0x00ffffff00000000u) >> 8 | (w & 0x0000000000ffffffu);
    out[0] = (uint8_t)(w >> 40);
    out[1] = (uint8_t)(w >> 32);
    out[2] = (uint8_t)(w >> 24);
    out[3] = (uint8_t)(w >> 16);
    out[4] = (uint8_t)(w >> 8);
    out[5] = (uint8_t)w;
}


static void
kaws__text_base64(kaws__buf *out, kaws_bytes in)
{
    uint8_t *at = kaws__buf_grow(out, (in.len + 2) / 3 * 4);
    uint8_t rest[8] = { 0 }, digits[8];
    size_t i = 0, n, left;

    if (at == NULL)
        return;
    for (; in.len - i >= 8; i += 6, at += 8)
        kaws__text_encode(at, in.at + i);
    for (; i < in.len; i += 6, at += n) {
        left = in.len - i < 6 ? in.len - i : 6;
        n = (left + 2) / 3 * 4;
        memset(rest, 0, sizeof rest);
        memcpy(rest, in.at + i, left);
        kaws__text_encode(digits, rest);
        memcpy(at, digits, n);
    }
    n = (3 - in.len % 3) % 3;
    memset(at - n, '=', n);
    kaws_wipe(rest, sizeof rest);
    kaws_wipe(digits, sizeof digits);
}


/* Accepts whole groups only, padding only at the end, and no stray bits before
 * the padding. Returns 0 for anything else, or if `cap` bytes are too few. The
 * length of the plaintext is no secret; its bytes are. `out` may overlap `in`,
 * but not begin behind its start. */
static int
kaws__text_unbase64(kaws_bytes in, uint8_t *out, size_t cap, size_t *len)
{
    uint8_t rest[8], bytes[6], stray = 0;
    size_t i, n, pad = 0, last = 0;
    uint64_t bad = 0;

    if (in.len % 4 != 0)
        return 0;
    if (in.len > 0 && in.at[in.len - 1] == '=')
        pad = in.at[in.len - 2] == '=' ? 2 : 1;
    n = in.len / 4 * 3 - pad;
    if (n > cap)
        return 0;
    for (i = 0; in.len - i > 8; i += 8, out += 6)
        kaws__text_decode(out, in.at + i, &bad);
    if (in.len > 0) {
        memset(rest, 'A', sizeof rest);
        memcpy(rest, in.at + i, in.len - i - pad);
        kaws__text_decode(bytes, rest, &bad);
        last = (in.len - i) / 4 * 3 - pad;
        memcpy(out, bytes, last);
        stray = pad > 0 ? bytes[last] : 0;
    }
    kaws_wipe(rest, sizeof rest);
    kaws_wipe(bytes, sizeof bytes);
    *len = n;
    return (bad | stray) == 0;
}


/* ---- percent-encoding (RFC 3986, section 2.1) -------------------------- */

static void
kaws__text_percent(kaws__buf *out, kaws_bytes in, int (*keep)(int))
{
    char code[4];

    for (; in.len > 0; in.at++, in.len--) {
        if (keep(*in.at)) {
            kaws__buf_put(out, in.at, 1);
            continue;
        }
        (void)snprintf(code, sizeof code, "%%%02X", (unsigned)*in.at);
        kaws__buf_put(out, code, 3);
    }
}


/* ---- UTF-8 (RFC 3629) -------------------------------------------------- */

/* How many bytes the first character takes; 0 if it is not well formed. */
static size_t
kaws__text_utf8(const uint8_t *at, size_t len)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    size_t n, i;
    uint32_t c;

    if (len == 0 || at[0] < 0x80)
        return len > 0;
    n = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    if (at[0] < 0xc0 || at[0] > 0xf4 || len < n)
        return 0;
    c = at[0] & (0x7fu >> n);
    for (i = 1; i < n; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (at[i] & 0x3f);
    }
    return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)
         ? 0 : n;
}


static int
kaws__text_is_utf8(kaws_bytes text)
{
    size_t i = 0, n = 1;

    for (; i < text.len && n > 0; i += n)
        n = kaws__text_utf8(text.at + i, text.len - i);
    return n > 0;
}


/* ---- for logs: words that are not ours --------------------------------- */

#define KAWS__TEXT_SHOWN 256      /* of a file's name: leaves room for advice */


/* Finds the user and the password of a URL. They end at the last '@', because a
 * password may hold anything. If a ':' comes after the first quote, they begin
 * behind that quote, or behind the scheme if one follows it. Otherwise they
 * begin behind the first "://". The caller's `own` text counts as quoted.
 * Returns their end, or 0 if there are none. */
static size_t
kaws__text_userinfo(kaws_bytes text, int own, size_t *from)
{
    size_t at = text.len, i = 0;
    int quoted = own;

    while (at > 0 && text.at[at - 1] != '@')
        at--;
    if (at == 0)
        return 0;
    at--;
    for (; !quoted && i < at; i++)
        quoted = text.at[i] == '\'' || text.at[i] == '"';
    quoted = quoted && memchr(text.at + i, ':', at - i) != NULL;
    *from = i = quoted ? i : 0;
    for (; i + 3 <= at; i++) {
        if (memcmp(text.at + i, "://", 3) == 0) {
            *from = i + 3;
            return at;
        }
        if (quoted && !kaws__text_folded(text.at[i]))
            break;
    }
    return quoted ? at : 0;
}


/* Returns the length of the run of base64 at the beginning, if the run could be
 * a secret: it has `least` bytes or more, letters of both cases, and digits.
 * Otherwise returns 0. With `slash`, a '/' belongs to a run. Words that AWS
 * uses are never such runs: actions have no digits, hex has one case, and an
 * '=', the '-' of a UUID, the ':' of an ARN and the '_' of a role's name end a
 * run. */
static size_t
kaws__text_run(const uint8_t *at, size_t len, size_t least, int slash)
{
    int kinds = 0;
    size_t n;

    for (n = 0; n < len; n++) {
        if (at[n] >= '0' && at[n] <= '9')
            kinds |= 1;
        else if (at[n] >= 'A' && at[n] <= 'Z')
            kinds |= 2;
        else if (at[n] >= 'a' && at[n] <= 'z')
            kinds |= 4;
        else if (at[n] != '+' && !(slash && at[n] == '/'))
            break;
    }
    return n >= least && kinds == 7 ? n : 0;
}


/* Every text that is not ours passes this filter. It leaves out what could be a
 * secret, escapes the rest, and cuts it with three dots if it does not fit. In
 * text from others, a run of 20 bytes of base64 could be a secret (a key of 16
 * bytes has 22). In the caller's `own` text, only a run of 40 could be one: a
 * secret access key in the wrong setting. A slash counts as base64 in a run of
 * 40, unless the caller's own text is a path. */
static const char *
kaws__text_filter(char *out, size_t cap, kaws_bytes text, int own)
{
    size_t from = 0, to = kaws__text_userinfo(text, own, &from);
    int slash = !own || text.len == 0 || text.at[0] != '/', fits = 1;
    size_t i, k, n, used = 0;

    out[0] = '\0';
    for (i = 0; i < text.len && fits; i += n) {
        size_t left = (i < from ? from : text.len) - i, keep = 4;
        const char *mark = "...";

        n = kaws__text_run(text.at + i, left, 40, slash);
        if (n == 0)
            n = kaws__text_run(text.at + i, left, own ? 40 : 20, 0);
        if (i == from && to > from) {
            n = to - from;
            keep = 0;
            mark = "***";
        } else if (n == 0) {
            n = keep = 1;
            mark = "";
        }
        for (k = 0; k < keep + strlen(mark) && fits; k++)
            fits = kaws__err_put(out, cap - 3, &used, k < keep ? text.at[i + k]
                                 : mark[k - keep], own ? "\\'" : "\\");
    }
    if (!fits)
        memcpy(out + used, "...", 4);
    return out;
}


/* `show` writes a name or setting of the caller's, or a file's name, for a
 * place between single quotes; the text cannot end the quotes. `quote` writes
 * text from others. */
#define kaws__text_show(out, cap, text)  kaws__text_filter(out, cap, text, 1)
#define kaws__text_quote(out, cap, text) kaws__text_filter(out, cap, text, 0)

/* The same, with an array that lives as long as the block that uses the macro.
 */
#define KAWS__SHOW(text)  kaws__text_show((char[96]){ "" }, 96, text)
#define KAWS__QUOTE(text) kaws__text_quote((char[272]){ "" }, 272, text)


/* see Part II */
KAWS_API const char *
kaws_show(char *out, size_t cap, const char *name)
{
    return kaws__text_show(out, cap, kaws__buf_of(name != NULL ? name : ""));
}


/* The next letter or digit, folded; 0 at the end. Skips our \xNN escapes. */
static int
kaws__text_next(kaws_bytes text, size_t *at)
{
    int c = 0;

    while (c == 0 && *at < text.len) {
        if (text.len - *at >= 4 && memcmp(text.at + *at, "\\x", 2) == 0)
            *at += 4;
        else
            c = kaws__text_folded(text.at[(*at)++]);
    }
    return c;
}


/* Whether the text holds a piece of the secret, in any case and with anything
 * between the letters. A piece is eight letters or digits, or all of them if
 * the secret has fewer: a sentence holds eight letters of a token by chance
 * only once in millions of times, and seven letters help nobody. The secret is
 * not copied. */
static int
kaws__text_holds(kaws_bytes text, kaws_bytes secret)
{
    size_t i, m, a, b, same;
    int c;

    for (i = 0; i < secret.len; i++)
        for (m = 0; m < text.len; m++) {
            c = kaws__text_folded(secret.at[i]);
            if (i > 0 && c != kaws__text_folded(text.at[m]))
                continue;                 /* nearly always                   */
            a = i;
            b = m;
            for (same = 0; same < 8; same++) {
                c = kaws__text_next(secret, &a);
                if (c == 0 || c != kaws__text_next(text, &b))
                    break;
            }
            if (same == 8 || (i == 0 && c == 0 && same > 0))
                return 1;
        }
    return 0;
}


/* ---- numbers and dates ------------------------------------------------- */

/* Reads a number up to `most`. The text must be 1 to 10 decimal digits; else 0.
 */
static int
kaws__text_number(kaws_bytes text, uint32_t most, uint32_t *out)
{
    uint64_t value = 0;
    size_t i = 0;

    for (; i < text.len && text.at[i] >= '0' && text.at[i] <= '9'; i++)
        value = value * 10 + (uint64_t)(text.at[i] - '0');
    if (i == 0 || i < text.len || i > 10 || value > most)
        return 0;
    *out = (uint32_t)value;
    return 1;
}


/* Days from 1970-01-01 to a date in the Gregorian calendar. Years begin in
 * March here, so that the leap day is a year's last day, and month 13 is the
 * next January. */
static int64_t
kaws__text_days(int64_t year, int month, int day)
{
    int64_t y = month > 2 ? year : year - 1;
    int64_t m = month > 2 ? month - 3 : month + 9;

    return y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day -
           719469;
}


/* "20150830T123600Z", for Unix seconds from 1970 to 9999. */
static void
kaws__text_amz_date(char out[17], int64_t when)
{
    int64_t now = when < 0 || when > 253402300799 ? 0 : when;
    int64_t days = now / 86400, year = 1970 + days / 365, date, time;
    int month = 12, i;

    while (kaws__text_days(year, 1, 1) > days)
        year--;                           /* the guess is never too small    */
    while (kaws__text_days(year, month, 1) > days)
        month--;
    date = (year * 100 + month) * 100 + 1 + days -
           kaws__text_days(year, month, 1);
    time = (now / 3600 % 24 * 100 + now / 60 % 60) * 100 + now % 60;
    memcpy(out, "yyyymmddThhmmssZ", 17);
    for (i = 7; i >= 0; i--, date /= 10)
        out[i] = (char)('0' + date % 10);
    for (i = 14; i > 8; i--, time /= 10)
        out[i] = (char)('0' + time % 10);
}


/* Unix seconds of "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, section 5.6.7),
 * the one form that servers may send today; 0 for anything else. In `shape`,
 * each 0 to 4 stands for a digit of n[0] to n[4]; the letters are compared
 * below. */
KAWS__MAYBE static int64_t
kaws__text_http_date(kaws_bytes text)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    static const char weekdays[] = "ThuFriSatSunMonTueWed";
    static const char shape[] = "aaa, 00 aaa 1111 22:33:44 GMT";
    int64_t n[5] = { 0 }, days;
    int month = 1;
    size_t i;

    if (text.len != sizeof shape - 1)
        return 0;
    for (i = 0; i < text.len; i++) {
        int c = text.at[i], number = shape[i] - '0';
        if (number >= 0 && number < 5 && c >= '0' && c <= '9')
            n[number] = n[number] * 10 + (c - '0');
        else if (shape[i] != 'a' && shape[i] != c)
            return 0;
    }
    while (month <= 12 && memcmp(months + 3 * month - 3, text.at + 8, 3) != 0)
        month++;
    if (month > 12 || n[0] < 1 || n[1] < 1970 || n[2] > 23 || n[3] > 59 ||
        n[4] > 60)
        return 0;
    days = kaws__text_days(n[1], month, (int)n[0]);
    if (days >= kaws__text_days(n[1], month + 1, 1) ||
        memcmp(weekdays + 3 * (days % 7), text.at, 3) != 0)
        return 0;
    return days * 86400 + n[2] * 3600 + n[3] * 60 + n[4];
}


/* Unix seconds of "2026-11-27T08:32:38Z" (RFC 3339), or with a fraction of the
 * second, or with +01:00 for Z; 0 for anything else. */
static int64_t
kaws__text_iso_date(kaws_bytes text)
{
    static const char shape[] = "0000-11-22T33:44:55", zone[] = "x66:77";
    const size_t whole = sizeof shape - 1;
    int64_t n[8] = { 0 }, days, east = 1;
    size_t i, at = 0;

    for (i = 0; i < whole + 6 && at < text.len; i++, at++) {
        int c = text.at[at], want = i < whole ? shape[i] : zone[i - whole];
        if (i == whole && c == '.')
            while (++at < text.len && text.at[at] >= '0' && text.at[at] <= '9')
                continue;
        c = at < text.len ? text.at[at] : 0;
        if (i == whole && c == 'Z' && at + 1 == text.len)
            i = whole + 5;
        else if (want >= '0' && want <= '7' && c >= '0' && c <= '9')
            n[want - '0'] = n[want - '0'] * 10 + (c - '0');
        else if (want == 'x' && (c == '+' || c == '-'))
            east = c == '+' ? 1 : -1;
        else if (want != c)
            return 0;
    }
    if (i < whole + 6 || at < text.len || n[0] < 1970 || n[1] < 1 ||
        n[1] > 12 || n[2] < 1 || n[3] > 23 || n[4] > 59 || n[5] > 60 ||
        n[6] > 23 || n[7] > 59)
        return 0;
    days = kaws__text_days(n[0], (int)n[1], (int)n[2]);
    if (days >= kaws__text_days(n[0], (int)n[1] + 1, 1))
        return 0;
    return days * 86400 + (n[3] - east * n[6]) * 3600 +
           (n[4] - east * n[7]) * 60 + n[5];
}


/* ==========================================================================
 * ROOM  json     read and write the flat objects that KMS speaks
 * ==========================================================================
 * Uses: err buf text
 * Gives: json_peek json_read json_read_in | json_begin json_name json_string
 *        json_base64 json_number json_true json_end
 *
 * A reply of KMS is one object of strings and, rarely, other values, which we
 * skip. So the reader is a cursor, not a tree: it walks the members once and
 * hands out views into the reply. It neither recurses nor allocates: it skips
 * nested values with one bit a level, and decodes a string's escapes in place,
 * because a character is never longer than its escape. It is stricter than RFC
 * 8259: a reply that is not UTF-8, has a wanted member twice or holds half a
 * surrogate pair did not come from KMS.
 */

#define KAWS__JSON_DEPTH 64       /* of levels in the outermost object        */

typedef struct kaws__json {
    uint8_t    *at, *end;
    const char *bad;              /* what is wrong at `at`; NULL: nothing    */
    uint64_t    objects;          /* a bit a level: 1 an object, 0 an array   */
    int         depth;            /* of the levels that are open              */
    const char *inside;           /* the member whose members are wanted      */
    int         wanted;           /* the level of the wanted members; or 0    */
    int         lines;            /* that end before `at`                     */
    uint8_t    *line;             /* the line that `at` is in: first, text    */
} kaws__json;

typedef struct kaws__member {     /* one that the caller wants                */
    const char *name;
    kaws_bytes  value;            /* a view; .at is NULL if it was not there  */
    int         kind;             /* 0: it must be a string                   */
} kaws__member;

enum { KAWS__OR_NULL = 1,         /* null is as good as none                  */
       KAWS__IF_STRING,           /* anything but a string is as good as none */
       KAWS__AS_WRITTEN };        /* any value, a string with its quotes      */


static int
kaws__json_fail(kaws__json *j, const char *what)
{
    j->bad = what;
    return 0;
}


/* Skips blanks, and returns the next byte; -1: there is none. Only blanks end a
 * line, because a line may not end in a string. */
static int
kaws__json_peek(kaws__json *j)
{
    for (; j->at < j->end && (*j->at == ' ' || *j->at == '\n' ||
                              *j->at == '\r' || *j->at == '\t'); j->at++)
        if (*j->at == '\n')
            j->line = j->at + 1, j->lines++;
    return j->at < j->end ? *j->at : -1;
}


static int
kaws__json_take(kaws__json *j, int byte, const char *otherwise)
{
    if (kaws__json_peek(j) != byte)
        return kaws__json_fail(j, otherwise);
    j->at++;
    return 1;
}


/* Skips the next byte if it is one of these. */
static int
kaws__json_one_of(kaws__json *j, const char *bytes)
{
    int found = j->at < j->end && *j->at != '\0' && strchr(bytes, *j->at);

    j->at += found;
    return found;
}


/* ---- strings ----------------------------------------------------------- */

static int
kaws__json_hex4(kaws__json *j, uint32_t *out)
{
    static const char digits[] = "0123456789abcdef";
    const char *digit;
    int i;

    *out = 0;
    if (j->end - j->at < 4)
        return kaws__json_fail(j, "a \\u escape is cut short");
    for (i = 0; i < 4; i++, j->at++) {
        digit = memchr(digits, kaws__text_lower(*j->at), 16);
        if (digit == NULL)
            return kaws__json_fail(j, "a \\u escape needs four hex digits");
        *out = *out << 4 | (uint32_t)(digit - digits);
    }
    return 1;
}


/* Writes a character of up to 21 bits as UTF-8, its last byte first. */
static uint8_t *
kaws__json_put_utf8(uint8_t *to, uint32_t c)
{
    static const uint8_t lead[] = { 0, 0, 0xc0, 0xe0, 0xf0 };
    int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4, i;

    for (i = n - 1; i > 0; i--, c >>= 6)
        to[i] = (uint8_t)(0x80 | (c & 63));
    to[0] = (uint8_t)(lead[n] | c);
    return to + n;
}


/* Reads the character of a \u escape, or of two that are a surrogate pair.
 * j->at is at the first digit. */
static int
kaws__json_unicode(kaws__json *j, uint32_t *c)
{
    uint32_t low = 0;

    if (!kaws__json_hex4(j, c))
        return 0;
    if (*c < 0xd800 || *c > 0xdfff)
        return 1;
    if (*c < 0xdc00 && j->end - j->at >= 2 && memcmp(j->at, "\\u", 2) == 0) {
        j->at += 2;
        if (!kaws__json_hex4(j, &low))
            return 0;
    }
    if (low < 0xdc00 || low > 0xdfff)
        return kaws__json_fail(j, "half a surrogate pair");
    *c = 0x10000 + ((*c & 0x3ff) << 10) + (low & 0x3ff);
    return 1;
}


/* Reads an escape behind its backslash, and writes the character to *to. */
static int
kaws__json_escape(kaws__json *j, uint8_t **to)
{
    static const char from[] = "\"\\/bfnrt", means[] = "\"\\/\b\f\n\r\t";
    const char *found;
    uint32_t c;

    if (j->at == j->end)
        return kaws__json_fail(j, "a string is cut short");
    if (kaws__json_one_of(j, "u")) {
        if (kaws__json_unicode(j, &c))
            *to = kaws__json_put_utf8(*to, c);
        return j->bad == NULL;
    }
    found = memchr(from, *j->at, sizeof from - 1);
    if (found == NULL)
        return kaws__json_fail(j, "an escape that JSON does not have");
    j->at++;
    *(*to)++ = (uint8_t)means[found - from];
    return 1;
}


/* Skips bytes that mean themselves, eight at once if none of the eight is a
 * quote, a backslash, a control character, or beyond ASCII. Each of the four
 * tests sets the highest bit of such a byte, and only such a byte borrows. */
static int
kaws__json_plain(kaws__json *j)
{
    uint8_t *at = j->at, *end = j->end;
    uint64_t w;
    size_t n;

    do {
        for (; end - at >= 8; at += 8) {
            memcpy(&w, at, sizeof w);
            if ((w | (w - 0x20 * KAWS__ONES) |
                 ((w ^ '"' * KAWS__ONES) - KAWS__ONES) |
                 ((w ^ '\\' * KAWS__ONES) - KAWS__ONES)) & 0x80 * KAWS__ONES)
                break;
        }
        while (at < end && *at >= 0x20 && *at < 0x80 && *at != '"' &&
               *at != '\\')
            at++;
        j->at = at;
        if (at == end || *at < 0x80)
            return 1;
        n = kaws__text_utf8(at, (size_t)(end - at));
        at += n;
    } while (n > 0);
    return kaws__json_fail(j, "not UTF-8");
}


static int
kaws__json_text(kaws__json *j, kaws_bytes *out)
{
    uint8_t *start, *to, *from;

    if (!kaws__json_take(j, '"', "a string was expected"))
        return 0;
    start = to = j->at;
    for (;;) {
        from = j->at;
        if (!kaws__json_plain(j))
            return 0;
        if (to != from)
            memmove(to, from, (size_t)(j->at - from));
        to += j->at - from;
        if (j->at == j->end)
            return kaws__json_fail(j, "a string is cut short");
        if (*j->at != '\\')
            break;
        j->at++;
        if (!kaws__json_escape(j, &to))
            return 0;
    }
    if (*j->at != '"')
        return kaws__json_fail(j, "a control character in a string");
    j->at++;
    *out = (kaws_bytes){ start, (size_t)(to - start) };
    return 1;
}


/* ---- other values are skipped ------------------------------------------ */

static int
kaws__json_digits(kaws__json *j)
{
    if (!kaws__json_one_of(j, "0123456789"))
        return kaws__json_fail(j, "a number lacks a digit");
    while (kaws__json_one_of(j, "0123456789"))
        continue;
    return 1;
}


static int
kaws__json_number_at(kaws__json *j)
{
    kaws__json_one_of(j, "-");
    if (!kaws__json_one_of(j, "0") && !kaws__json_digits(j))
        return 0;
    if (kaws__json_one_of(j, ".") && !kaws__json_digits(j))
        return 0;
    if (!kaws__json_one_of(j, "eE"))
        return 1;
    kaws__json_one_of(j, "+-");
    return kaws__json_digits(j);
}


/* Skips a string, number or word, or opens an object or array. */
static int
kaws__json_value(kaws__json *j)
{
    static const char *const words[] = { "true", "false", "null" };
    kaws_bytes ignored;
    size_t i;
    int c = kaws__json_peek(j);

    if (c == '"')
        return kaws__json_text(j, &ignored);
    if (c == '-' || (c >= '0' && c <= '9'))
        return kaws__json_number_at(j);
    if (c == '{' || c == '[') {
        if (j->depth > KAWS__JSON_DEPTH)
            return kaws__json_fail(j, "nested too deeply");
        j->objects = j->objects << 1 | (c == '{');
        j->depth++;
        j->at++;
        return 1;
    }
    for (i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if ((size_t)(j->end - j->at) >= n && memcmp(j->at, words[i], n) == 0) {
            j->at += n;
            return 1;
        }
    }
    return kaws__json_fail(j, "a value was expected");
}


/* ---- a whole reply ----------------------------------------------------- */

/* Enters the object whose members are wanted, if this is it. */
static int
kaws__json_enter(kaws__json *j, kaws_bytes name)
{
    if (j->inside == NULL || j->depth != 1 ||
        !kaws__buf_same(name, kaws__buf_of(j->inside)))
        return 1;
    if (j->wanted != 0)
        return kaws__json_fail(j, "a member is there twice");
    if (kaws__json_peek(j) != '{')
        return kaws__json_fail(j, "an object was expected");
    j->wanted = 2;
    return 1;
}


/* Reads a value of an array, or a member of an object. A wanted member must be
 * of its kind. */
static int
kaws__json_member(kaws__json *j, int object, kaws__member *want, size_t count)
{
    kaws_bytes name = { NULL, 0 };
    size_t i = j->depth == j->wanted && object ? 0 : count;
    int next;

    if (object && !(kaws__json_text(j, &name) &&
                    kaws__json_take(j, ':', "a colon was expected") &&
                    kaws__json_enter(j, name)))
        return 0;
    while (i < count && !kaws__buf_same(name, kaws__buf_of(want[i].name)))
        i++;
    if (i == count)
        return kaws__json_value(j);
    if (want[i].value.at != NULL)
        return kaws__json_fail(j, "a member is there twice");
    next = kaws__json_peek(j);            /* the value begins here            */
    if (want[i].kind == KAWS__IF_STRING ? next != '"'
        : next == 'n' && want[i].kind == KAWS__OR_NULL)
        return kaws__json_value(j);
    if (want[i].kind != KAWS__AS_WRITTEN)
        return kaws__json_text(j, &want[i].value);
    want[i].value.at = j->at;
    if (!kaws__json_value(j))
        return 0;
    want[i].value.len = (size_t)(j->at - want[i].value.at);
    return 1;
}


/* Reads one object; nothing may follow it. The wanted members are those of its
 * member j->inside, an object, or (NULL) its own. They must be of their kind,
 * and occur at most once. Returns NULL, or what is wrong at j->at. The text is
 * changed in place, and the views point into it. */
static const char *
kaws__json_read_in(kaws__json *j, kaws__member *want, size_t count)
{
    int first = 1, depth, object;
    size_t i;

    j->wanted = j->inside == NULL;
    for (i = 0; i < count; i++)
        want[i].value = (kaws_bytes){ NULL, 0 };
    j->depth = kaws__json_take(j, '{', "an object was expected");
    while (j->bad == NULL && (depth = j->depth) > 0) {
        object = depth == 1 || (j->objects & 1);
        if (kaws__json_peek(j) == (object ? '}' : ']')) {
            j->at++;
            j->objects >>= 1;
            j->depth--;
            if (j->depth < j->wanted && j->inside != NULL)
                j->wanted = -1;           /* it has been there                */
            first = 0;
        } else if (first || kaws__json_take(j, ',', "a comma or an end was "
                                                    "expected")) {
            kaws__json_member(j, object, want, count);
            first = j->depth > depth;
        }
    }
    if (j->bad == NULL && kaws__json_peek(j) >= 0)
        kaws__json_fail(j, "something follows the object");
    return j->bad;
}


/* Reads an object's own members; *offset is where something is wrong. */
static const char *
kaws__json_read(uint8_t *text, size_t len, kaws__member *want, size_t count,
                size_t *offset)
{
    kaws__json j = { .at = text, .end = text + len };
    const char *const bad = kaws__json_read_in(&j, want, count);

    *offset = (size_t)(j.at - text);
    return bad;
}


/* ---- writing ----------------------------------------------------------- */

/* The writer keeps no state: its last byte shows whether a comma is due. */
#define kaws__json_begin(out) kaws__buf_text(out, "{")
#define kaws__json_end(out)   kaws__buf_text(out, "}")
#define kaws__json_true(out)  kaws__buf_text(out, "true")


/* The text must be UTF-8. The caller has checked that. */
static void
kaws__json_string(kaws__buf *out, kaws_bytes text)
{
    size_t i, done = 0;
    char code[8];

    kaws__buf_text(out, "\"");
    for (i = 0; i < text.len; i++) {
        int c = text.at[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        (void)snprintf(code, sizeof code, c < 0x20 ? "\\u%04x" : "\\%c", c);
        kaws__buf_put(out, text.at + done, i - done);
        kaws__buf_text(out, code);
        done = i + 1;
    }
    kaws__buf_put(out, text.at + done, text.len - done);
    kaws__buf_text(out, "\"");
}


static void
kaws__json_name(kaws__buf *out, const char *name)
{
    if (out->len > 0 && out->at[out->len - 1] != '{')
        kaws__buf_text(out, ",");
    kaws__json_string(out, kaws__buf_of(name));
    kaws__buf_text(out, ":");
}


static void
kaws__json_base64(kaws__buf *out, kaws_bytes data)
{
    kaws__buf_text(out, "\"");
    kaws__text_base64(out, data);
    kaws__buf_text(out, "\"");
}


static void
kaws__json_number(kaws__buf *out, size_t value)
{
    kaws__buf_text(out, KAWS__DECIMAL(value));
}


/* ==========================================================================
 * ROOM  xml      read the replies of AWS STS
 * ==========================================================================
 * Uses: buf text json
 * Gives: xml_read
 *
 * A reply of STS is a tree of elements, of which a few leaves are wanted. The
 * reader is a cursor that walks the elements once, as in room json: it neither
 * recurses nor allocates, keeps the open elements in an array, decodes the text
 * of a wanted leaf in place, and hands out views. It accepts the XML that STS
 * sends, and refuses the rest: above all a DOCTYPE, so no reply can define
 * entities of its own.
 */

#define KAWS__XML_DEPTH 16        /* of elements that are open                */

typedef struct kaws__xml {
    uint8_t    *at, *end;
    const char *bad;              /* what is wrong at `at`; NULL: nothing     */
    int         depth;
    kaws_bytes  open[KAWS__XML_DEPTH];
} kaws__xml;


static int
kaws__xml_fail(kaws__xml *x, const char *what)
{
    x->bad = what;
    return 0;
}


static int
kaws__xml_is_blank(int c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}


static void
kaws__xml_skip_blanks(kaws__xml *x)
{
    while (x->at < x->end && kaws__xml_is_blank(*x->at))
        x->at++;
}


/* The name of an element: letters, digits and - _ . : */
static int
kaws__xml_name(kaws__xml *x, kaws_bytes *name)
{
    name->at = x->at;
    while (x->at < x->end && (kaws__text_folded(*x->at) ||
                              memchr("-_.:", *x->at, 4) != NULL))
        x->at++;
    name->len = (size_t)(x->at - name->at);
    return name->len > 0 || kaws__xml_fail(x, "an element without a name");
}


/* Reads the entity at x->at, and moves past it. *out is the byte that it stands
 * for. */
static int
kaws__xml_entity(kaws__xml *x, uint8_t *out)
{
    static const struct { const char *name; uint8_t byte; } known[] = {
        { "&amp;", '&' }, { "&lt;", '<' }, { "&gt;", '>' }, { "&quot;", '"' },
        { "&apos;", '\'' }
    };
    const uint8_t *const semi = memchr(x->at, ';', (size_t)(x->end - x->at));
    kaws_bytes name = { x->at, 0 };
    uint32_t code = 0;
    size_t i;

    if (semi == NULL)
        return kaws__xml_fail(x, "an & without its ;");
    name.len = (size_t)(semi - x->at) + 1;
    for (i = 0; i < sizeof known / sizeof known[0] && code == 0; i++)
        if (kaws__buf_same(name, kaws__buf_of(known[i].name)))
            code = known[i].byte;
    if (code == 0 && name.len > 3 && name.at[1] == '#')
        (void)kaws__text_number((kaws_bytes){ name.at + 2, name.len - 3 },
                                126, &code);
    if (code < 9)
        return kaws__xml_fail(x, "an entity that STS does not use");
    x->at += name.len;
    *out = (uint8_t)code;
    return 1;
}


/* The text up to the next tag. Its entities are decoded in place. */
static int
kaws__xml_text(kaws__xml *x, kaws_bytes *out)
{
    uint8_t *to = x->at;

    out->at = to;
    while (x->at < x->end && *x->at != '<')
        if (*x->at != '&')
            *to++ = *x->at++;
        else if (!kaws__xml_entity(x, to++))
            return 0;
    out->len = (size_t)(to - out->at);
    return x->at < x->end || kaws__xml_fail(x, "the text is cut short");
}


/* The rest of a start tag. 1: the element is open; 0: it is empty, or bad. */
static int
kaws__xml_attributes(kaws__xml *x)
{
    int quote = 0, last = 0;

    for (; x->at < x->end && (quote != 0 || *x->at != '>'); x->at++) {
        last = *x->at;
        if (last == '<')
            return kaws__xml_fail(x, "a < in a tag");
        if (quote == 0 && (last == '"' || last == '\''))
            quote = last;
        else if (quote == last)
            quote = 0;
    }
    if (x->at == x->end)
        return kaws__xml_fail(x, "a tag is cut short");
    x->at++;
    return last != '/';
}


/* Whether a wanted "Parent/Name" is the element that was opened last. */
static int
kaws__xml_is(const kaws__xml *x, const char *path)
{
    const size_t n = strcspn(path, "/");
    const kaws_bytes parent = { (const uint8_t *)path, n };

    return x->depth > 1 && kaws__buf_same(x->open[x->depth - 2], parent) &&
           kaws__buf_same(x->open[x->depth - 1], kaws__buf_of(path + n + 1));
}


/* A start tag, and the text of the element, if that is wanted. */
static void
kaws__xml_element(kaws__xml *x, kaws__member *want, size_t count)
{
    kaws_bytes text;
    size_t i = 0;

    if (x->depth == KAWS__XML_DEPTH) {
        (void)kaws__xml_fail(x, "nested too deeply");
        return;
    }
    if (!kaws__xml_name(x, &x->open[x->depth]) || !kaws__xml_attributes(x))
        return;
    x->depth++;
    while (i < count && !kaws__xml_is(x, want[i].name))
        i++;
    if (i == count || !kaws__xml_text(x, &text))
        return;
    if (x->end - x->at < 2 || x->at[1] != '/' || want[i].value.at != NULL)
        (void)kaws__xml_fail(x, "a wanted element is there twice, or holds "
                             "others");
    want[i].value = text;
}


/* Reads one document; nothing may follow it. Each wanted leaf may come once at
 * most. Returns NULL, or what is wrong; *offset says where. The text is changed
 * in place, and the views point into it. */
static const char *
kaws__xml_read(uint8_t *text, size_t len, kaws__member *want, size_t count,
               size_t *offset)
{
    kaws__xml x = { .at = text, .end = text + len };
    kaws_bytes name = { text, len };
    size_t i;

    for (i = 0; i < count; i++)
        want[i].value = (kaws_bytes){ NULL, 0 };
    if (!kaws__text_is_utf8(name) || (len > 0 && memchr(text, 0, len) != NULL))
        (void)kaws__xml_fail(&x, "not UTF-8");
    kaws__xml_skip_blanks(&x);
    if (kaws__buf_begins((kaws_bytes){ x.at, (size_t)(x.end - x.at) },
                         "<?xml ")) {
        x.at += strlen("<?xml ");
        (void)kaws__xml_attributes(&x);
    }
    kaws__xml_skip_blanks(&x);
    if (x.bad == NULL && x.at == x.end)
        (void)kaws__xml_fail(&x, "an element was expected");
    while (x.bad == NULL) {
        if (x.depth > 0 && *x.at != '<') {
            (void)kaws__xml_text(&x, &name);
        } else if (*x.at++ != '<') {
            (void)kaws__xml_fail(&x, "an element was expected");
        } else if (x.at == x.end || *x.at != '/') {
            kaws__xml_element(&x, want, count);
        } else if (x.at++, kaws__xml_name(&x, &name)) {
            kaws__xml_skip_blanks(&x);
            if (x.at == x.end || *x.at++ != '>' || x.depth == 0 ||
                !kaws__buf_same(name, x.open[--x.depth]))
                (void)kaws__xml_fail(&x, "an end that is not the last "
                                     "element's");
        }
        kaws__xml_skip_blanks(&x);
        if (x.depth == 0 || x.at == x.end)
            break;
    }
    if (x.bad == NULL && (x.depth > 0 || x.at < x.end))
        (void)kaws__xml_fail(&x, x.depth > 0 ? "the text is cut short"
                             : "something follows the last element");
    *offset = (size_t)(x.at - text);
    return x.bad;
}


/* ==========================================================================
 * ROOM  ini      read the profile files of AWS's tools
 * ==========================================================================
 * Uses: buf
 * Gives: ini_trim ini_next
 *
 * A file has sections, [head], and in them properties, `name = value`. AWS's
 * SDKs differ in what else they accept. This reader accepts what they agree on
 * and, where they differ, what loses nothing. It refuses the rest: the error
 * names the line, and shows no piece of a value.
 *
 *     # or ; in the first column    a comment
 *     blank, then # or ;            a comment behind a head or a value; in
 *                                   `a#b` it is a part of the value
 *     an indented line              goes on with the value above, which then
 *                                   has a line's end in it; below an empty
 *                                   value it is skipped
 *     quotes, %, :                  mean nothing
 *
 * It is a cursor over the text: it neither recurses, allocates, nor changes the
 * text, and what it finds are views. The caller decides which section counts,
 * and what it means if a section, or a name in it, comes twice.
 */

enum { KAWS__INI_END, KAWS__INI_HEAD, KAWS__INI_PROPERTY };

typedef struct kaws__ini {
    kaws_bytes  left;             /* the text from here on                    */
    int         line;             /* number of the line that was read last    */
    int         headed;           /* there was a head                         */
    const char *bad;              /* what is wrong there; NULL: nothing       */
    kaws_bytes  name;             /* of the property, or what is in [ ]       */
    kaws_bytes  value;
} kaws__ini;


static int
kaws__ini_is_blank(int c)
{
    return c == ' ' || c == '\t';
}


static int
kaws__ini_is_mark(int c)
{
    return c == '#' || c == ';';
}


static int
kaws__ini_fail(kaws__ini *ini, const char *what)
{
    ini->bad = what;
    return KAWS__INI_END;
}


/* The text up to `end`, without blanks around it. */
static kaws_bytes
kaws__ini_trim(const uint8_t *at, const uint8_t *end)
{
    while (at < end && kaws__ini_is_blank(*at))
        at++;
    while (at < end && kaws__ini_is_blank(end[-1]))
        end--;
    return (kaws_bytes){ at, (size_t)(end - at) };
}


/* Takes the next line that is neither blank nor a comment, with the blanks
 * before it, without its line end. 0: there is none, or it has a zero byte. */
static int
kaws__ini_take(kaws__ini *ini, kaws_bytes *line)
{
    const uint8_t *at = ini->left.at, *const end = at + ini->left.len, *from;

    do {
        if (at == end)
            return 0;
        ini->line++;
        for (from = at; at < end && *at != '\n';)
            at++;
        *line = (kaws_bytes){ from, (size_t)(at - from) };
        line->len -= line->len > 0 && from[line->len - 1] == '\r';
        at += at < end;
        if (line->len > 0 && memchr(from, 0, line->len) != NULL)
            return kaws__ini_fail(ini, "a zero byte");
    } while (kaws__ini_trim(from, from + line->len).len == 0 ||
             kaws__ini_is_mark(*from));
    ini->left = (kaws_bytes){ at, (size_t)(end - at) };
    return 1;
}


/* [head] */
static int
kaws__ini_head(kaws__ini *ini, kaws_bytes line)
{
    const uint8_t *const end = line.at + line.len;
    const uint8_t *const close = memchr(line.at, ']', line.len);
    kaws_bytes rest;

    if (close == NULL)
        return kaws__ini_fail(ini, "a [ without its ]");
    rest = kaws__ini_trim(close + 1, end);
    if (rest.len > 0 && !kaws__ini_is_mark(*rest.at))
        return kaws__ini_fail(ini, "something follows the ]");
    ini->name = kaws__ini_trim(line.at + 1, close);
    ini->headed = 1;
    return KAWS__INI_HEAD;
}


/* name = value, and the indented lines below it. */
static int
kaws__ini_property(kaws__ini *ini, kaws_bytes line)
{
    const uint8_t *const equals = memchr(line.at, '=', line.len);
    const uint8_t *end = line.at + line.len, *at;
    kaws__ini ahead;

    if (!ini->headed)
        return kaws__ini_fail(ini, "a line above the first [section]");
    if (equals == NULL)
        return kaws__ini_fail(ini, "a line that is neither name = value nor "
                              "[section]");
    ini->name = kaws__ini_trim(line.at, equals);
    if (ini->name.len == 0)
        return kaws__ini_fail(ini, "no name before the =");
    for (at = equals + 1; at < end; at++)
        if (kaws__ini_is_mark(*at) && kaws__ini_is_blank(at[-1]))
            end = at;
    ini->value = kaws__ini_trim(equals + 1, end);
    ahead = *ini;
    while (kaws__ini_take(&ahead, &line) && kaws__ini_is_blank(*line.at)) {
        line = kaws__ini_trim(line.at, line.at + line.len);
        if (ini->value.len > 0)
            ini->value.len = (size_t)(line.at + line.len - ini->value.at);
        ini->left = ahead.left;
        ini->line = ahead.line;
    }
    return KAWS__INI_PROPERTY;
}


/* Finds the next head or property. KAWS__INI_END: ini->bad says what is wrong,
 * or is NULL if the text has ended. Before the first call, all members but
 * `left` are zero. */
static int
kaws__ini_next(kaws__ini *ini)
{
    kaws_bytes line;

    if (ini->line == 0 && kaws__buf_begins(ini->left, "\xef\xbb\xbf"))
        return kaws__ini_fail(ini, "a byte order mark: save the file without "
                              "it");
    if (ini->bad != NULL || !kaws__ini_take(ini, &line))
        return KAWS__INI_END;
    if (kaws__ini_is_blank(*line.at))
        return kaws__ini_fail(ini, "an indented line that continues no value");
    return *line.at == '[' ? kaws__ini_head(ini, line)
                           : kaws__ini_property(ini, line);
}


/* ==========================================================================
 * ROOM  crypto   SHA-256, HMAC and ChaCha20-Poly1305, on BearSSL
 * ==========================================================================
 * Uses: mem
 * Gives: crypto_init crypto_update crypto_out crypto_sha256 crypto_mac_key
 *        crypto_mac crypto_hmac crypto_clear_frames crypto_equal
 *        crypto_aead
 *
 * The only room that knows BearSSL. A kaws__sha256 is a running state. It may
 * be copied, and asked for its digest without being disturbed, so the data
 * file's digest can grow with the file.
 */

#include <bearssl.h>

typedef br_sha256_context   kaws__sha256;
typedef br_hmac_key_context kaws__mac_key;    /* a key ready for many HMACs   */


static void
kaws__crypto_init(kaws__sha256 *hash)
{
    br_sha256_init(hash);
}


/* `hash` is a kaws__sha256. It is a void * so that a buffer can feed it. */
static void
kaws__crypto_update(void *hash, const void *data, size_t len)
{
    br_sha256_update(hash, data, len);
}


static void
kaws__crypto_out(const kaws__sha256 *hash, uint8_t out[32])
{
    br_sha256_out(hash, out);
}


static void
kaws__crypto_sha256(uint8_t out[32], kaws_bytes data)
{
    kaws__sha256 hash;

    kaws__crypto_init(&hash);
    kaws__crypto_update(&hash, data.at, data.len);
    kaws__crypto_out(&hash, out);
}


static void
kaws__crypto_mac_key(kaws__mac_key *out, kaws_bytes key)
{
    br_hmac_key_init(out, &br_sha256_vtable, key.at, key.len);
}


static void
kaws__crypto_mac(uint8_t out[32], const kaws__mac_key *key, kaws_bytes data)
{
    br_hmac_context hmac;

    br_hmac_init(&hmac, key, 32);
    br_hmac_update(&hmac, data.at, data.len);
    br_hmac_out(&hmac, out);
    kaws_wipe(&hmac, sizeof hmac);
}


/* `out` may be the key itself. */
static void
kaws__crypto_hmac(uint8_t out[32], kaws_bytes key, kaws_bytes data)
{
    kaws__mac_key ready;

    kaws__crypto_mac_key(&ready, key);
    kaws__crypto_mac(out, &ready, data);
    kaws_wipe(&ready, sizeof ready);
}


static void
kaws__crypto_wipe_frame(void)
{
    uint8_t frames[2048];

    kaws_wipe(frames, sizeof frames);
}


/* Wipes the stack where the caller's earlier calls had their frames. BearSSL
 * writes an HMAC into its own frame, copies it from there, and wipes nothing.
 */
static void
kaws__crypto_clear_frames(void)
{
    /* The pointer is volatile, so no compiler can inline the call and place its
     * frame elsewhere. */
    static void (*const volatile wipe)(void) = kaws__crypto_wipe_frame;

    wipe();
}


/* Takes the same time wherever two digests differ. */
static int
kaws__crypto_equal(const uint8_t a[32], const uint8_t b[32])
{
    uint32_t differ = 0;
    int i;

    for (i = 0; i < 32; i++)
        differ |= (uint32_t)(a[i] ^ b[i]);
    return differ == 0;
}


enum { KAWS__TAG = 16 };          /* bytes that ChaCha20-Poly1305 adds        */


/* Encrypts (if `seals`) or decrypts the data in place with ChaCha20-Poly1305
 * (RFC 8439), and authenticates `about` with them. Encrypting writes the tag.
 * Decrypting returns 0 if the tag is wrong; all data are zeros then. A nonce
 * must not encrypt twice under one key. */
static int
kaws__crypto_aead(const uint8_t key[32], const uint8_t nonce[12],
                  kaws_bytes about, int seals, uint8_t *data, size_t len,
                  uint8_t tag[KAWS__TAG])
{
    uint8_t made[32] = { 0 }, given[32] = { 0 };
    int right;

    memcpy(given, tag, KAWS__TAG);
    br_poly1305_ctmul_run(key, nonce, data, len, about.at, about.len, made,
                          br_chacha20_ct_run, seals);
    kaws__crypto_clear_frames();
    right = seals || kaws__crypto_equal(made, given);
    if (seals)
        memcpy(tag, made, KAWS__TAG);
    if (!right)
        kaws_wipe(data, len);
    kaws_wipe(made, sizeof made);         /* a forger must not learn the tag  */
    return right;
}


/* ==========================================================================
 * ROOM  sigv4    AWS Signature Version 4, in the steps of AWS's page
 * ==========================================================================
 * Uses: err mem buf text crypto
 * Gives: sigv4_unreserved sigv4_key sigv4_authorize kaws_sign kaws_amz_date
 *        kaws_payload_sha256
 *
 * "Create a signed AWS API request", step by step: 1 the canonical request,
 * 2 its hash, 3 the string to sign, 4 the signing key, 5 the signature and the
 * header or query that carries it. Nothing is allocated: the canonical request
 * is fed to a hash. Step 4 is a function of its own, because a signing key
 * serves for a day and a region.
 */

#define KAWS__SIGV4_SECRET_MAX 256
#define KAWS__SIGV4_MAX        64 /* headers, or parameters                   */

typedef struct kaws__field {      /* a header or a parameter                  */
    kaws_bytes name, value;
} kaws__field;

typedef struct kaws__fields {     /* with room for 3 headers that we add      */
    size_t      count;
    kaws__field at[KAWS__SIGV4_MAX + 3];
} kaws__fields;


/* RFC 3986's unreserved characters. */
static int
kaws__sigv4_unreserved(int c)
{
    return kaws__text_folded(c) || memchr("-._~", c, 4) != NULL;
}


/* The characters that stay as they are in a path that is already encoded. */
static int
kaws__sigv4_encoded(int c)
{
    return kaws__sigv4_unreserved(c) || c == '/' || c == '%';
}


/* A buffer's consumer: writes what the buffer feeds to it into a query,
 * percent-encoded. */
static void
kaws__sigv4_encode(void *query, const void *data, size_t len)
{
    kaws__text_percent(query, (kaws_bytes){ data, len },
                       kaws__sigv4_unreserved);
}


/* Inserts a field in order. Parameters are sorted by name, then by value.
 * `headers` are sorted by name in lower case; those of one name keep the order
 * in which they came. */
static void
kaws__sigv4_insert(kaws__fields *list, kaws_bytes name, kaws_bytes value,
                   int headers)
{
    size_t i = list->count++;

    for (; i > 0; i--) {
        const kaws__field *before = &list->at[i - 1];
        int order = kaws__text_order(before->name, name, headers);
        if (order == 0 && !headers)
            order = kaws__text_order(before->value, value, 0);
        if (order <= 0)
            break;
        list->at[i] = *before;
    }
    list->at[i] = (kaws__field){ name, value };
}


/* Collects the headers to sign. They are the caller's, Host among them, and
 * AWS's own that the caller did not give. A presigned URL gets none of AWS's.
 * Each value ends with a NUL. Returns NULL, or what is wrong. */
static const char *
kaws__sigv4_collect(kaws__fields *headers, const kaws_signing *what,
                    const char *date, const char *token)
{
    const char *const wanted[][2] = {
        { "host", "" }, { "x-amz-date", date },
        { "x-amz-security-token",
          token != NULL && !what->token_unsigned ? token : "" },
        { "x-amz-content-sha256", what->payload != NULL ? what->payload : "" }
    };
    const char *const *line = what->headers;
    size_t i, k, most = what->expires > 0 ? 1 : 4;

    for (headers->count = 0; line != NULL && *line != NULL; line++) {
        kaws_bytes name = kaws__buf_of(*line), value;
        name.len = strcspn(*line, ": \t\r\n");
        if (headers->count == KAWS__SIGV4_MAX)
            return "more than 64 headers";
        if (name.len == 0 || (*line)[name.len] != ':')
            return "a header has no name, or no colon";
        if ((*line)[strcspn(*line, "\r\n")] != '\0')
            return "a header has a line break";
        value = kaws__buf_of(*line + name.len + 1);
        kaws__sigv4_insert(headers, name, value, 1);
    }
    for (i = 0; i < most; i++) {
        if (i > 0 && *wanted[i][1] == '\0')
            continue;
        for (k = 0; k < headers->count; k++)
            if (kaws__text_alike(headers->at[k].name, wanted[i][0]))
                break;
        if (k == headers->count && i == 0)
            return "there is no Host header";
        if (k == headers->count)
            kaws__sigv4_insert(headers, kaws__buf_of(wanted[i][0]),
                               kaws__buf_of(wanted[i][1]), 1);
    }
    return NULL;
}


/* Writes `before` and a header's name in lower case, or nothing if the previous
 * header has the same name. Returns whether it wrote. */
static int
kaws__sigv4_name(kaws__buf *out, const kaws__fields *headers, size_t i,
                 const char *before)
{
    kaws_bytes name = headers->at[i].name;
    uint8_t low[32];
    size_t n;

    if (i > 0 && kaws__text_order(headers->at[i - 1].name, name, 1) == 0)
        return 0;
    kaws__buf_put(out, before, strlen(before));
    for (; name.len > 0; name.at += n, name.len -= n) {
        for (n = 0; n < sizeof low && n < name.len; n++)
            low[n] = (uint8_t)kaws__text_lower(name.at[n]);
        kaws__buf_put(out, low, n);
    }
    return 1;
}


static void
kaws__sigv4_names(kaws__buf *out, const kaws__fields *headers)
{
    size_t i;

    for (i = 0; i < headers->count; i++)
        kaws__sigv4_name(out, headers, i, i > 0 ? ";" : "");
}


/* ---- step 1: create a canonical request -------------------------------- */

/* The first segment of a path, without the slash before it. */
static kaws_bytes
kaws__sigv4_segment(const char *path)
{
    path += *path == '/';
    return (kaws_bytes){ (const uint8_t *)path, strcspn(path, "/") };
}


/* Returns 1 if a segment leads a level down, -1 if it leads up, else 0. */
static int
kaws__sigv4_levels(kaws_bytes segment)
{
    return kaws__buf_same(segment, kaws__buf_of("..")) ? -1 :
           segment.len > 0 && !kaws__buf_same(segment, kaws__buf_of("."));
}


/* Writes the path without segments that are empty, ".", "..", or undone by a
 * later "..", and percent-encodes it once more. AWS does both for every service
 * but S3. */
static void
kaws__sigv4_path(kaws__buf *out, const char *path)
{
    kaws_bytes segment = { NULL, 0 }, behind;
    int levels, written = 0;

    for (; *path != '\0'; path = (const char *)segment.at + segment.len) {
        segment = behind = kaws__sigv4_segment(path);
        levels = kaws__sigv4_levels(segment);
        while (levels > 0 && behind.at[behind.len] != '\0') {
            behind = kaws__sigv4_segment((const char *)behind.at + behind.len);
            levels += kaws__sigv4_levels(behind);
        }
        if (levels > 0) {
            kaws__buf_text(out, "/");
            kaws__text_percent(out, segment, kaws__sigv4_unreserved);
            written = 1;
        }
    }
    if (!written || segment.len == 0)
        kaws__buf_text(out, "/");
}


/* Writes the parameters as sent, sorted by name, then by value. */
static const char *
kaws__sigv4_query(kaws__buf *out, const char *query)
{
    kaws__fields list;
    size_t i, len;
    int more = query != NULL && *query != '\0';

    for (list.count = 0; more; query += len + 1) {
        kaws_bytes name = { (const uint8_t *)query, strcspn(query, "&=") };
        kaws_bytes value = { name.at + name.len, 0 };
        len = strcspn(query, "&");
        value.at += name.len < len;       /* behind the '='                  */
        value.len = len - (size_t)(value.at - name.at);
        if (list.count == KAWS__SIGV4_MAX)
            return "more than 64 query parameters";
        kaws__sigv4_insert(&list, name, value, 0);
        more = query[len] == '&';         /* the last one may be empty       */
    }
    for (i = 0; i < list.count; i++) {
        kaws__buf_put(out, "&", i > 0);
        kaws__buf_put(out, list.at[i].name.at, list.at[i].name.len);
        kaws__buf_text(out, "=");
        kaws__buf_put(out, list.at[i].value.at, list.at[i].value.len);
    }
    return NULL;
}


/* Writes a header's value trimmed, and with each run of blanks as one space. */
static void
kaws__sigv4_value(kaws__buf *out, const char *value)
{
    size_t n;

    for (value += strspn(value, " \t"); *value != '\0'; value += n) {
        n = strcspn(value, " \t");
        kaws__buf_put(out, value, n);
        n += strspn(value + n, " \t");
        kaws__buf_put(out, " ", value[n] != '\0');
    }
}


/* see Part II */
KAWS_API const char *
kaws_payload_sha256(char out[65], kaws_bytes body)
{
    uint8_t digest[32];

    kaws__crypto_sha256(digest, body);
    kaws__text_hex(out, digest, sizeof digest);
    return out;
}


/* Writes the canonical request. `query` is the request's query, or the part of
 * a presigned URL's query that has been written so far. */
static const char *
kaws__sigv4_request(kaws__buf *out, const kaws_signing *what,
                    const kaws__fields *headers, const char *query)
{
    const char *wrong;
    char hex[65];
    size_t i;

    kaws__buf_text(out, what->method, "\n");
    if (what->path_as_sent && *what->path != '\0')
        kaws__text_percent(out, kaws__buf_of(what->path), kaws__sigv4_encoded);
    else
        kaws__sigv4_path(out, what->path);
    kaws__buf_text(out, "\n");
    wrong = kaws__sigv4_query(out, query);
    for (i = 0; i < headers->count; i++) {
        int named = kaws__sigv4_name(out, headers, i, "\n");
        kaws__buf_put(out, named ? ":" : ",", 1);
        kaws__sigv4_value(out, (const char *)headers->at[i].value.at);
    }
    kaws__buf_text(out, "\n\n");
    kaws__sigv4_names(out, headers);
    kaws__buf_text(out, "\n", what->payload != NULL && *what->payload != '\0'
                              ? what->payload
                              : kaws_payload_sha256(hex, what->body));
    return wrong;
}


/* ---- step 4: derive a signing key -------------------------------------- */

/* Chains four HMACs, beginning with the secret: over the date, the region, the
 * service and a constant. The secret has at most 256 bytes. The key is a
 * secret, too: the caller wipes it. */
static void
kaws__sigv4_key(kaws__mac_key *out, const char *secret, const char *date,
                const char *region, const char *service)
{
    const kaws_bytes parts[4] = { { (const uint8_t *)date, 8 },
                                  kaws__buf_of(region), kaws__buf_of(service),
                                  kaws__buf_of("aws4_request") };
    uint8_t first[4 + KAWS__SIGV4_SECRET_MAX], key[32];
    kaws__buf start = kaws__buf_fixed(first, sizeof first);
    kaws_bytes chain;
    size_t i;

    kaws__buf_text(&start, "AWS4", secret);
    chain = kaws__buf_view(&start);
    for (i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        kaws__crypto_hmac(key, chain, parts[i]);
        chain = (kaws_bytes){ key, sizeof key };
    }
    kaws__crypto_mac_key(out, chain);
    kaws__crypto_clear_frames();
    kaws_wipe(first, sizeof first);
    kaws_wipe(key, sizeof key);
}


/* ---- steps 2, 3 and 5: the string to sign, the signature, the result ---- */

/* Writes the session token of a presigned URL, if there is one. */
static void
kaws__sigv4_token(kaws__buf *query, const char *token)
{
    kaws__buf encoded = { .feed = kaws__sigv4_encode, .consumer = query };

    if (token == NULL || *token == '\0')
        return;
    kaws__buf_text(query, "&X-Amz-Security-Token=");
    kaws__buf_text(&encoded, token);
}


/* Writes the value of Authorization up to the signature, or the part of a
 * presigned URL's query that is signed. */
static void
kaws__sigv4_begin(kaws__buf *out, const kaws_signing *what, kaws_creds who,
                  const char *scope, const char *date,
                  const kaws__fields *headers)
{
    kaws__buf encoded = { .feed = kaws__sigv4_encode, .consumer = out };
    char expires[16];

    if (what->expires <= 0) {
        kaws__buf_text(out, "AWS4-HMAC-SHA256 Credential=", who.id, "/", scope,
                       ", SignedHeaders=");
        kaws__sigv4_names(out, headers);
        return;
    }
    if (what->query != NULL && *what->query != '\0')
        kaws__buf_text(out, what->query, "&");
    kaws__buf_text(out, "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=");
    kaws__buf_text(&encoded, who.id, "/", scope);
    (void)snprintf(expires, sizeof expires, "%d", what->expires);
    kaws__buf_text(out, "&X-Amz-Date=", date, "&X-Amz-Expires=", expires,
                   "&X-Amz-SignedHeaders=");
    kaws__sigv4_names(&encoded, headers);
    kaws__sigv4_token(out, what->token_unsigned ? NULL : who.token);
}


/* Writes the value of Authorization or the query, NUL-terminated. who.secret is
 * not used: `key` was made from it. Returns NULL, or what is wrong. */
static const char *
kaws__sigv4_authorize(const kaws_signing *what, kaws_creds who,
                      const kaws__mac_key *key, char *out, size_t cap)
{
    char date[17], scope[157], string[256], hex[65];
    kaws__sha256 request;
    kaws__buf hashed = { .feed = kaws__crypto_update, .consumer = &request };
    kaws__buf result = kaws__buf_fixed(out, cap);
    kaws__buf to_sign = kaws__buf_fixed(string, sizeof string);
    const char *query = what->query, *wrong;
    kaws__fields headers;
    uint8_t digest[32];

    kaws__text_amz_date(date, what->when);
    if (snprintf(scope, sizeof scope, "%.8s/%s/%s/aws4_request", date,
                 what->region, what->service) >= (int)sizeof scope)
        return "the names of region and service are too long";
    if ((wrong = kaws__sigv4_collect(&headers, what, date, who.token)) != NULL)
        return wrong;
    kaws__sigv4_begin(&result, what, who, scope, date, &headers);
    if (what->expires > 0 && result.len < cap) {
        out[result.len] = '\0';
        query = out;                      /* the part that is signed         */
    }

    kaws__crypto_init(&request);
    wrong = kaws__sigv4_request(&hashed, what, &headers, query);
    kaws__crypto_out(&request, digest);
    kaws__text_hex(hex, digest, sizeof digest);
    kaws__buf_text(&to_sign, "AWS4-HMAC-SHA256\n", date, "\n", scope, "\n",
                   hex);
    kaws__crypto_mac(digest, key, kaws__buf_view(&to_sign));
    kaws__text_hex(hex, digest, sizeof digest);
    if (what->expires > 0 && what->token_unsigned)
        kaws__sigv4_token(&result, who.token);
    kaws__buf_text(&result, what->expires > 0 ? "&X-Amz-Signature="
                                              : ", Signature=", hex);
    kaws__buf_put(&result, "", 1);
    return wrong == NULL && result.failed
         ? what->expires > 0 ? "the room for the query is too small"
                             : "the room for the Authorization value is too "
                               "small" : wrong;
}


/* Checks the arguments of kaws_sign. Returns NULL, or what is wrong. */
static const char *
kaws__sigv4_refuse(const kaws_signing *what, kaws_creds who)
{
    const char *const payload = what->payload != NULL ? what->payload : "";
    const char *const words[] = { what->method, what->region, what->service,
                                  who.id, *payload != '\0' ? payload : "none",
                                  who.secret, what->path };
    const char *const lines[] = { what->path, what->query, who.token };
    size_t i, n;

    for (i = 0; i < 7; i++)
        if (words[i] == NULL)
            return "method, region, service, id, secret and path must not be "
                   "NULL";
    for (i = 0; i < 5; i++) {             /* slashes divide the scope        */
        for (n = 0; words[i][n] > ' ' && words[i][n] < 0x7f; n++)
            if (words[i][n] == '/')
                break;
        if (n == 0 || words[i][n] != '\0')
            return "method, region, service, id and payload must be words, "
                   "without slashes";
    }
    if (*who.secret == '\0')
        return "the secret is empty";
    if (strlen(who.secret) > KAWS__SIGV4_SECRET_MAX)
        return "the secret is longer than 256 bytes";
    if (what->path[0] != '/' && what->path[0] != '\0')
        return "the path does not begin with a slash";
    for (i = 0; i < 3; i++)
        if (lines[i] != NULL && lines[i][strcspn(lines[i], "\r\n")] != '\0')
            return "path, query or token has a line break";
    if (what->body.at == NULL && what->body.len > 0)
        return "the body is NULL, but not empty";
    if (what->when <= 0 || what->when > 253402300799)
        return "the time is not between the years 1970 and 9999";
    if (what->expires < 0 || what->expires > 604800)
        return "a presigned URL expires after 1 to 604800 seconds";
    if (what->expires > 0 && what->query != NULL &&
        strstr(what->query, "X-Amz-Signature=") != NULL)
        return "the query is that of a presigned URL";
    return NULL;
}


/* see Part II */
KAWS_API kaws_status
kaws_sign(const kaws_signing *what, kaws_creds who, char *out, size_t cap,
          kaws_error *err)
{
    const char *wrong = "the request and the room for the result must not be "
                        "NULL";
    kaws__mac_key key;
    char date[17];

    kaws__err_clear(err);
    if (what != NULL && out != NULL)
        wrong = kaws__sigv4_refuse(what, who);
    if (wrong == NULL) {
        kaws__text_amz_date(date, what->when);
        kaws__sigv4_key(&key, who.secret, date, what->region, what->service);
        wrong = kaws__sigv4_authorize(what, who, &key, out, cap);
        kaws_wipe(&key, sizeof key);
    }
    if (wrong == NULL)
        return KAWS_OK;
    kaws_wipe(out, cap);                  /* a query may hold the token      */
    return kaws__err_set(err, KAWS_ARGUMENT, "cannot sign: %s", wrong);
}


/* see Part II */
KAWS_API const char *
kaws_amz_date(char out[17], int64_t when)
{
    kaws__text_amz_date(out, when);
    if (when <= 0 || when > 253402300799)
        out[0] = '\0';
    return out;
}


/* ==========================================================================
 * ROOM  url      which hosts and which proxies are well formed
 * ==========================================================================
 * Uses: sys err buf text
 * Gives: url_host_ok url_origin url_proxy_ok url_check_proxy
 *
 * libcurl has had a URL parser since 7.62. But we support 7.54, and we check an
 * endpoint in programs without libcurl, too. So this room has checks of its
 * own. They are stricter than libcurl's: libcurl accepts whatever this room
 * accepts, and takes the same part of it for the host.
 */

#define KAWS__URL_MAX 192         /* longest URL of ours, and its NUL         */


/* Is it host, host:port, [IPv6] or [IPv6]:port? */
static int
kaws__url_host_ok(kaws_bytes text)
{
    char host[1024], *end;
    uint32_t port = 0;

    if (!kaws__buf_copy_text(host, sizeof host, text))
        return 0;
    end = host[0] == '[' ? strchr(host, ']')
        : host + strspn(host, "abcdefghijklmnopqrstuvwxyz0123456789.-_"
                              "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    if (end == NULL || end == host)
        return 0;
    if (host[0] == '[') {
        *end++ = '\0';
        if (!kaws__sys_is_ipv6(host + 1))
            return 0;
    }
    return *end == '\0' ||
           (*end == ':' && kaws__text_number(kaws__buf_of(end + 1), 65535,
                                             &port) && port > 0);
}


/* The part of a URL that names the server: "https://host:port". */
static kaws_bytes
kaws__url_origin(const char *url)
{
    const char *host = strstr(url, "://");

    host = host != NULL ? host + 3 : url;
    return (kaws_bytes){ (const uint8_t *)url,
                         (size_t)(host - url) + strcspn(host, "/?#") };
}


/* Where libcurl looks for a proxy for HTTPS, in this order. */
KAWS__MAYBE static const char *const kaws__url_proxies[4] = {
    "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"
};


/* Is it [scheme://][user[:password]@]host[:port][/...]? If a password holds a
 * raw '/', libcurl takes the text before the '/' for the host, and the rest for
 * a path. So no '@' may follow the host. */
KAWS__MAYBE static int
kaws__url_proxy_ok(const char *proxy)
{
    static const char *const schemes[] = {
        "https", "http", "socks", "socks4", "socks4a", "socks5", "socks5h"
    };
    const char *host = strstr(proxy, "://"), *at;
    kaws_bytes view = kaws__buf_of(proxy);
    size_t i;

    for (i = 0; i < view.len; i++)
        if (view.at[i] <= ' ' || view.at[i] == 0x7f)
            return 0;
    view.len = host != NULL ? (size_t)(host - proxy) : 0;
    for (i = 0; i < 7 && !kaws__text_alike(view, schemes[i]); i++)
        continue;
    if (host != NULL && i == 7)
        return 0;
    host = host != NULL ? host + 3 : proxy;
    at = strrchr(host, '@');
    if (at != NULL && strcspn(host, "@/?#") != (size_t)(at - host))
        return 0;
    view = kaws__buf_of(at != NULL ? at + 1 : host);
    view.len = strcspn((const char *)view.at, "/?#");
    return kaws__url_host_ok(view);
}


/* Refuses a malformed proxy, because libcurl would report it like an outage:
 * the one that is set or, if that is NULL, the one in the environment. There,
 * if no_proxy is set, only warns: libcurl may bypass the proxy. The proxy's URL
 * may hold a password, so the message has only the name of the setting.
 * *over_tls: whether libcurl may speak TLS with the proxy. */
KAWS__MAYBE static kaws_status
kaws__url_check_proxy(const kaws_hooks *hooks, const char *set, int *over_tls,
                      kaws_error *err)
{
    static const char wrong[] = "is not of the form [scheme://][user:password@]"
        "host[:port] with the scheme http, https, socks4, socks4a, socks5 or "
        "socks5h; in a password write / ? # @ % and blanks as %2F %3F %23 %40 "
        "%25 %20";
    const char *direct = kaws__sys_env("no_proxy"), *proxy = set;
    const char *name = "proxy";
    kaws_bytes scheme;
    int i;

    if (direct == NULL)
        direct = kaws__sys_env("NO_PROXY");
    for (i = 0; i < 4 && proxy == NULL; i++)
        proxy = kaws__sys_env(name = kaws__url_proxies[i]);
    if (proxy == NULL ||
        (set == NULL && direct != NULL && strcmp(direct, "*") == 0))
        return KAWS_OK;
    scheme = (kaws_bytes){ (const uint8_t *)proxy, strcspn(proxy, ":") };
    *over_tls = kaws__text_alike(scheme, "https");
    if (kaws__url_proxy_ok(proxy))
        return KAWS_OK;
    if (set != NULL || direct == NULL)
        return kaws__err_set(err, KAWS_CONFIG, "%s%s %s", name, set != NULL ? ""
                             : " in the environment", wrong);
    kaws__err_log(hooks, KAWS__LOG_PROXY, name, wrong);
    return KAWS_OK;
}


/* ==========================================================================
 * ROOM  head     what the header lines of a reply say
 * ==========================================================================
 * Uses: buf text
 * Gives: head_begin kaws_reply_line
 *
 * The built-in sender and the caller's `send` hook hand over the same lines, so
 * both are read here. A header that the caller wants is believed only if it
 * came once, in one whole line. Date, the request id and the retry-after may
 * come twice: then the last one counts.
 */

/* Forgets the header lines of an earlier reply, if there was one. */
static void
kaws__head_begin(kaws_reply *r)
{
    size_t i;

    r->date = 0;
    r->retry_after_ms = -1;
    r->request_id[0] = '\0';
    for (i = 0; r->headers != NULL && i < r->header_count; i++) {
        r->headers[i].found = 0;
        r->headers[i].value[0] = '\0';
    }
}


/* Keeps the value if the header is wanted. `name` is NULL for a line that
 * continues a header. We do not know which header that is, so we believe none
 * of those that are wanted. */
static void
kaws__head_keep(kaws_reply *r, const kaws_bytes *name, kaws_bytes value)
{
    size_t i, printable = 0;

    while (printable < value.len && value.at[printable] >= ' ' &&
           value.at[printable] <= '~')
        printable++;
    for (i = 0; r->headers != NULL && i < r->header_count; i++) {
        kaws_header *h = &r->headers[i];
        if (name != NULL && !kaws__text_alike(*name, h->name))
            continue;
        h->found = name != NULL && h->found == 0 && printable == value.len &&
                   kaws__buf_copy_text(h->value, sizeof h->value, value)
                   ? 1 : -1;
        if (h->found < 0)
            h->value[0] = '\0';
    }
}


/* Takes over one header. A request id that is too long (AWS's have 36 bytes) is
 * cut and ends in a digest of the whole id. So two ids that begin alike remain
 * different. */
static void
kaws__head_field(kaws_reply *r, kaws_bytes name, kaws_bytes value)
{
    const size_t most = sizeof r->request_id - 1;
    uint64_t digest;
    uint32_t ms;

    if (kaws__text_alike(name, "date")) {
        r->date = kaws__text_http_date(value);
    } else if (kaws__text_alike(name, "x-amzn-requestid")) {
        digest = kaws__buf_digest(value);
        memset(r->request_id, 0, sizeof r->request_id);
        memcpy(r->request_id, value.at, value.len < most ? value.len : most);
        if (value.len > most)
            kaws__text_hex(r->request_id + most - 16, (uint8_t *)&digest, 8);
    } else if (kaws__text_alike(name, "x-amz-retry-after") &&
               kaws__text_number(value, 3600000, &ms)) {
        r->retry_after_ms = (int)ms;
    }
    kaws__head_keep(r, &name, value);
}


/* see Part II */
KAWS_API void
kaws_reply_line(kaws_reply *r, const char *line, size_t len)
{
    kaws_bytes name = { (const uint8_t *)line, 0 }, value = name;
    const char *colon = len > 0 ? memchr(line, ':', len) : NULL;

    if (len > 5 && memcmp(line, "HTTP/", 5) == 0)     /* a reply begins       */
        kaws__head_begin(r);
    if (len > 0 && (*line == ' ' || *line == '\t'))
        kaws__head_keep(r, NULL, value);
    if (colon == NULL)
        return;
    name.len = (size_t)(colon - line);
    value.at = name.at + name.len + 1;
    value.len = len - name.len - 1;
    while (value.len > 0 && memchr(" \t\r\n", *value.at, 4) != NULL)
        value.at++, value.len--;
    while (value.len > 0 && memchr(" \t\r\n", value.at[value.len - 1], 4))
        value.len--;
    kaws__head_field(r, name, value);
}


/* ==========================================================================
 * ROOM  curl     the built-in sender: requests over libcurl's connections
 * ==========================================================================
 * Uses: sys thread disk err mem buf text url head
 * Gives: curl_open curl_close curl_send curl_done curl_distrust
 *
 * This room stands above room http, because room http chooses between it and
 * the caller's `send` hook.
 *
 * A connection is used again only if its last exchange was clean, as section 8
 * of the manual explains, and if the connection is silent now: nothing more
 * has come, neither to its socket nor to the TLS library.
 *
 * Each idle connection is owned by a curl_multi of its own, and its TLS session
 * by a share of its own. The sender lends a connection to one thread at a time.
 * Each request has an easy handle of its own, so libcurl keeps nothing else
 * from one request to the next.
 *
 * Secret bytes pass through libcurl on their way. A reply is copied out of
 * libcurl's buffer and wiped there. A request that carries a plaintext ends in
 * many spaces (see calls), and its body is handed over in two parts: libcurl
 * fills its one upload buffer from the start each time, so the spaces overwrite
 * the plaintext. The header lines hold the session token and the signature, so
 * we do not copy them: libcurl reads them where they are. OpenSSL is told to
 * wipe its own buffers.
 */

/* built-in sender: begin */
#if !defined(KEYRING_AWS_NO_CURL)

#include <curl/curl.h>

#define KAWS__CURL_IDLE     64    /* connections kept for the next request    */
#define KAWS__CURL_IDLE_S   20    /* AWS closes idle connections; so do we    */
#define KAWS__CURL_LINES    24    /* most header lines of a request           */
#define KAWS__CURL_HEAD_MAX 65536 /* bytes of all header lines of a reply     */
#define KAWS__CURL_CA_LOOK 1048576    /* bytes of a CA file to search         */
#define KAWS__CURL_CA_MAX 16777216    /* largest; each connection reads it    */
#define KAWS__CURL_TOLD     32    /* hosts that are told once; then, again    */

typedef struct kaws__conn {       /* one connection, and what owns it         */
    struct kaws__conn *next;      /* the idle one that was used before this   */
    CURLM        *multi;
    CURLSH       *share;          /* its TLS session, for resumption          */
    curl_socket_t sock;           /* CURL_SOCKET_BAD: open a new connection   */
    int64_t       used_us;        /* when the last reply was complete         */
    unsigned      era;            /* the sender's era when it lent this last  */
    int           sound;          /* no surplus came with the last reply      */
    int           told;           /* the log knows its TLS; or it has none    */
    char          origin[KAWS__URL_MAX]; /* the one server that it serves     */
} kaws__conn;

typedef struct kaws__sender {
    const kaws_hooks *hooks;
    const char *ca_file, *proxy;  /* the config's                             */
    /* Functions of libcurl's TLS library, or NULL. */
    int       (*openssl_pending)(const void *session);
    size_t    (*gnutls_pending)(void *session);
    uint64_t  (*openssl_options)(void *context, uint64_t options);
    const char *(*openssl_version)(const void *session);
    long      (*openssl_ctrl)(void *session, int what, long n, void *at);
    const char *(*openssl_group)(void *session, int group);
    int         proxy_tls;        /* a second TLS session, with the proxy     */
    int         old;              /* libcurl is older than 7.71               */
    kaws__lock  lock;             /* guards all below                         */
    unsigned    era;              /* older connections are not used again     */
    unsigned    hosts;            /* told so far, overwritten ones too        */
    uint64_t    told[KAWS__CURL_TOLD];    /* their digests                    */
    kaws__conn *idle;             /* the first was used last                  */
} kaws__sender;

typedef struct kaws__transfer {   /* one request on its way                   */
    kaws__sender *s;
    const kaws_request *q;
    kaws_reply *r;
    kaws__conn *conn;
    CURL  *easy;
    struct curl_slist lines[KAWS__CURL_LINES];
    size_t sent;                  /* of the body                              */
    size_t first;                 /* where the trailing spaces begin          */
    size_t head;                  /* bytes of the reply's header lines so far */
    int    headed;                /* those lines are complete                 */
    int    overread;              /* libcurl may have read beyond the reply   */
    struct curl_tlssessioninfo tls;
    char   version[16], group[48];    /* of TLS; "": not known                */
    char   error[CURL_ERROR_SIZE];
} kaws__transfer;


/* ---- the CA file ------------------------------------------------------- */

/* Searches for a certificate at the start of a line, where OpenSSL wants it. */
static int
kaws__curl_find_cert(int fd, int *found)
{
    static const char *const begins[] = {
        "-----BEGIN CERTIFICATE-----", "-----BEGIN TRUSTED CERTIFICATE-----",
        "-----BEGIN X509 CERTIFICATE-----"
    };
    char bytes[2048], line[40] = "";
    size_t len = sizeof bytes, n = 0, i, k;
    uint64_t at;
    int os = 0;

    for (at = 0; !*found && len == sizeof bytes && at < KAWS__CURL_CA_LOOK;
         at += len) {
        os = kaws__disk_read_at(fd, at, bytes, sizeof bytes, &len);
        i = at == 0 && len > 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
        for (; i < len && !*found; i++) {
            n = bytes[i] == '\n' ? 0 : n + 1;
            if (n == 0 || n >= sizeof line)
                continue;
            line[n - 1] = bytes[i];
            line[n] = '\0';
            for (k = 0; k < 3; k++)
                *found |= strcmp(line, begins[k]) == 0;
        }
    }
    return os;
}


/* libcurl opens the CA file for each connection, waits forever if the file is a
 * pipe, and reports a bad file like a bad network. So the file is checked. */
static kaws_status
kaws__curl_check_ca(const char *path, kaws_error *err)
{
    char shown[KAWS__TEXT_SHOWN];
    kaws__stat st;
    int fd = -1, found = 0, os = kaws__disk_open(path, KAWS__READ_LINKED, &fd);

    if (os == 0 && (os = kaws__disk_stat(fd, NULL, &st)) == 0 && st.regular)
        os = kaws__curl_find_cert(fd, &found);
    kaws__disk_close(fd);
    if (os == 0 && found && st.size <= KAWS__CURL_CA_MAX)
        return KAWS_OK;
    kaws__text_show(shown, sizeof shown, kaws__buf_of(path));
    if (os != 0)
        return kaws__err_os(err, KAWS_CONFIG, os, "cannot read the CA file %s",
                            shown);
    return kaws__err_set(err, KAWS_CONFIG, "the CA file %s: %s; it has to hold "
                         "CA certificates in PEM form, each beginning with "
                         "a line -----BEGIN CERTIFICATE-----", shown,
                         !st.regular ? "it is not a file" :
                         st.size == 0 ? "it is empty" :
                         found ? "it is larger than 16 MiB" :
                         "no certificate in it");
}


/* ---- what the TLS library has read, and libcurl has not ---------------- */

/* Sets a pointer to the function of that name that libcurl calls, or to NULL: a
 * process can hold two OpenSSLs, and we want libcurl's. */
static void
kaws__curl_symbol(const char *name, void *function)
{
    CURL *(*init)(void) = curl_easy_init;
    void *caller, *symbol;

    memcpy(&caller, &init, sizeof caller);
    symbol = kaws__sys_symbol(name, caller);
    memcpy(function, &symbol, sizeof symbol);
}


/* Is nothing unread in the TLS library? If we cannot ask it, something may be,
 * so the connection is used only once. So is a connection to a proxy that
 * speaks TLS itself, because libcurl hides that TLS session from us. */
static int
kaws__curl_tls_silent(const kaws__transfer *t)
{
    const kaws__sender *s = t->s;
    void *session = s->proxy_tls ? NULL : t->tls.internals;

    if (session != NULL && t->tls.backend == CURLSSLBACKEND_OPENSSL)
        return s->openssl_pending != NULL && s->openssl_pending(session) == 0;
    if (session != NULL && t->tls.backend == CURLSSLBACKEND_GNUTLS)
        return s->gnutls_pending != NULL && s->gnutls_pending(session) == 0;
    return strncmp(t->q->url, "https:", 6) != 0;
}


/* ---- which TLS it is --------------------------------------------------- */

/* Copies what OpenSSL says of the session, which ends with the connection. 134
 * is SSL_CTRL_GET_NEGOTIATED_GROUP. Libraries that are like OpenSSL may mean
 * other things by it, so the pointers are NULL for these. OpenSSL before 3.0
 * does not have the last one. */
static void
kaws__curl_note_tls(kaws__transfer *t)
{
    const kaws__sender *s = t->s;
    void *const session = t->tls.internals;
    const char *name;

    if (session == NULL || t->tls.backend != CURLSSLBACKEND_OPENSSL ||
        s->openssl_version == NULL)
        return;
    name = s->openssl_version(session);
    (void)snprintf(t->version, sizeof t->version, "%s", name);
    if (s->openssl_ctrl == NULL || s->openssl_group == NULL)
        return;
    name = s->openssl_group(session, (int)s->openssl_ctrl(session, 134, 0,
                                                          NULL));
    if (name != NULL)
        (void)snprintf(t->group, sizeof t->group, "%s", name);
}


/* Tells the log once what TLS the host has spoken. */
static void
kaws__curl_tell_tls(const kaws__transfer *t)
{
    static const size_t scheme = sizeof "https://" - 1;
    const kaws_bytes origin = kaws__url_origin(t->q->url);
    const uint64_t host = kaws__buf_digest(origin);
    kaws__sender *s = t->s;
    unsigned i = 0;

    t->conn->told = 1;
    if (!kaws__buf_begins(origin, "https://"))
        return;
    kaws__thread_lock(&s->lock);
    while (i < KAWS__CURL_TOLD && s->told[i] != host)
        i++;
    if (i == KAWS__CURL_TOLD)
        s->told[s->hosts++ % KAWS__CURL_TOLD] = host;
    kaws__thread_unlock(&s->lock);
    if (i == KAWS__CURL_TOLD)
        kaws__err_log(s->hooks, KAWS__LOG_TLS,
                      kaws_show((char[96]){ "" }, 96, t->conn->origin + scheme),
                      t->version[0] != '\0' ? t->version : "TLS",
                      t->group[0] != '\0' ? ", with the key exchange " : "",
                      t->group);
}


/* ---- libcurl's callbacks ----------------------------------------------- */

static size_t
kaws__curl_on_body(char *data, size_t size, size_t count, void *to)
{
    kaws_reply *r = ((kaws__transfer *)to)->r;
    size_t len = size * count;
    int fits = r->body_len + len <= r->body_max;

    if (fits)
        memcpy(r->body + r->body_len, data, len);
    r->body_len = fits ? r->body_len + len : r->body_max + 1;
    kaws_wipe(data, len);                 /* libcurl's own copy              */
    return fits ? len : 0;
}


/* Lines after the head are the trailer of a chunked body: we ignore them. A
 * head that libcurl counts as a 1xx is not the reply's. libcurl gives us the
 * TLS session only during the transfer, so we ask here. libcurl silently drops
 * what it has read behind a chunked body, so we do not use the connection
 * again. KMS sends no chunked bodies. */
static size_t
kaws__curl_on_header(char *data, size_t size, size_t count, void *to)
{
    static const char chunked[] = "transfer-encoding:";
    struct curl_tlssessioninfo *tls = NULL;
    kaws__transfer *t = to;
    const size_t len = size * count, n = strlen(chunked);
    const kaws_bytes name = { (const uint8_t *)data, n };
    long http = 0;

    t->head += len;
    if (t->head > KAWS__CURL_HEAD_MAX)
        return 0;
    if (t->headed)
        return len;
    if (len > 0 && (*data == '\r' || *data == '\n')) {
        (void)curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &http);
        (void)curl_easy_getinfo(t->easy, CURLINFO_TLS_SSL_PTR, &tls);
        t->headed = http / 100 != 1;
        if (tls != NULL)
            t->tls = *tls;
        if (!t->conn->told)
            kaws__curl_note_tls(t);
    }
    t->overread |= len >= n && kaws__text_alike(name, chunked);
    kaws_reply_line(t->r, data, len);
    return len;
}


/* A libcurl before 7.71 also drops what it has read behind a body of a known
 * length. It says so only in its debug messages. */
static int
kaws__curl_on_words(CURL *easy, curl_infotype type, char *words, size_t len,
                    void *to)
{
    (void)easy;
    ((kaws__transfer *)to)->overread |= type == CURLINFO_TEXT && len >= 12 &&
                                        memcmp(words, "Excess found", 12) == 0;
    return 0;
}


static size_t
kaws__curl_on_read(char *out, size_t size, size_t count, void *from)
{
    kaws__transfer *t = from;
    size_t len = (t->sent < t->first ? t->first : t->q->body.len) - t->sent;

    if (len > size * count)
        len = size * count;
    if (len > 0)
        memcpy(out, t->q->body.at + t->sent, len);
    t->sent += len;
    return len;
}


/* libcurl sends the body again if a kept connection turns out to be dead. */
static int
kaws__curl_on_seek(void *from, curl_off_t offset, int origin)
{
    ((kaws__transfer *)from)->sent = 0;
    return origin == SEEK_SET && offset == 0 ? CURL_SEEKFUNC_OK
                                             : CURL_SEEKFUNC_CANTSEEK;
}


/* Tells OpenSSL to wipe plaintext once it has been read (option 2,
 * SSL_OP_CLEANSE_PLAINTEXT; versions that do not have it ignore it). */
static CURLcode
kaws__curl_on_ssl(CURL *easy, void *context, void *sender)
{
    (void)easy;
    ((kaws__sender *)sender)->openssl_options(context, 2);
    return CURLE_OK;
}


/* ---- connections ------------------------------------------------------- */

static void
kaws__curl_conn_free(kaws__sender *s, kaws__conn *conn)
{
    (void)curl_multi_cleanup(conn->multi);
    (void)curl_share_cleanup(conn->share);
    kaws__mem_free(s->hooks, conn, sizeof *conn);
}


static kaws__conn *
kaws__curl_conn_new(kaws__sender *s, kaws_bytes origin)
{
    kaws__conn *conn = kaws__mem_new(s->hooks, sizeof *conn);

    if (conn == NULL)
        return NULL;
    conn->sock = CURL_SOCKET_BAD;
    conn->multi = curl_multi_init();
    conn->share = curl_share_init();
    if (conn->multi != NULL && conn->share != NULL &&
        curl_share_setopt(conn->share, CURLSHOPT_SHARE,
                          CURL_LOCK_DATA_SSL_SESSION) == CURLSHE_OK &&
        curl_multi_setopt(conn->multi, CURLMOPT_MAXCONNECTS, 1L) == CURLM_OK &&
        kaws__buf_copy_text(conn->origin, sizeof conn->origin, origin))
        return conn;
    kaws__curl_conn_free(s, conn);
    return NULL;
}


/* Lends a conn to the caller until kaws__curl_done(): the idle one of that host
 * that was used last, or a new one. An idle conn is lent even if its connection
 * has ended, is distrusted or was not silent, because the conn keeps the CA
 * certificates and a TLS session to resume. libcurl then opens a new connection
 * in it, which pushes out the old one. If the socket is readable, the cause may
 * be the connection's end, a surplus reply or a TLS ticket: we do not look. */
static kaws__conn *
kaws__curl_lend(kaws__sender *s, const kaws_request *q)
{
    struct curl_waitfd fd = { CURL_SOCKET_BAD, CURL_WAIT_POLLIN, 0 };
    const kaws_bytes origin = kaws__url_origin(q->url);
    kaws__conn *conn = NULL, **at = &s->idle;
    int readable = 0;
    unsigned era;

    kaws__thread_lock(&s->lock);
    era = s->era;
    while (*at != NULL &&
           !kaws__buf_same(kaws__buf_of((*at)->origin), origin))
        at = &(*at)->next;
    if (*at != NULL && !q->fresh_connection) {
        conn = *at;
        *at = conn->next;
    }
    kaws__thread_unlock(&s->lock);
    if (conn == NULL && (conn = kaws__curl_conn_new(s, origin)) == NULL)
        return NULL;
    fd.fd = conn->sock;
    if (conn->era != era || conn->sock == CURL_SOCKET_BAD ||
        kaws__sys_ticks_us() - conn->used_us >= KAWS__CURL_IDLE_S * 1000000 ||
        curl_multi_wait(conn->multi, &fd, 1, 0, &readable) != CURLM_OK ||
        (readable | fd.revents) != 0)
        conn->sock = CURL_SOCKET_BAD;
    conn->era = era;
    return conn;
}


/* Keeps the conn if its last exchange was clean; else closes it. If too many
 * conns are idle, closes the one that was used longest ago. */
static void
kaws__curl_done(kaws__sender *s, kaws__conn *conn, int clean)
{
    kaws__conn *out = conn, **at = &s->idle;
    int n;

    kaws__thread_lock(&s->lock);
    if (clean && conn->sound) {
        conn->next = s->idle;
        s->idle = conn;
        for (n = 0; n < KAWS__CURL_IDLE && *at != NULL; n++)
            at = &(*at)->next;
        out = *at;
        *at = NULL;
    }
    kaws__thread_unlock(&s->lock);
    if (out != NULL)
        kaws__curl_conn_free(s, out);
}


/* After this, no connection that is open now, idle or lent, is used again. */
static void
kaws__curl_distrust(kaws__sender *s)
{
    kaws__thread_lock(&s->lock);
    s->era++;
    kaws__thread_unlock(&s->lock);
}


/* ---- one request ------------------------------------------------------- */

/* The option that makes libcurl use a method, or 0 for a method that we never
 * send. */
static CURLoption
kaws__curl_method(const char *method)
{
    static const struct { const char *name; CURLoption option; } known[] = {
        { "POST", CURLOPT_POST }, { "GET", CURLOPT_HTTPGET },
        { "HEAD", CURLOPT_NOBODY }, { "PUT", CURLOPT_UPLOAD }
    };
    size_t i;

    for (i = 0; i < sizeof known / sizeof known[0]; i++)
        if (method == NULL || strcmp(known[i].name, method) == 0)
            return known[i].option;
    return (CURLoption)0;
}


/* The request's proxy. "": none, because plain HTTP is for this machine alone,
 * or because the request says so; NULL: the environment's. */
static const char *
kaws__curl_proxy(const kaws__transfer *t)
{
    return strncmp(t->q->url, "http:", 5) == 0 || t->q->direct ? ""
         : t->s->proxy;
}


/* Sets the options of this request, and those that all requests share. Only the
 * options that are cast to void may fail: an older libcurl, or one with another
 * TLS library, may not know them.
 * SUPPRESS_CONNECT_HEADERS hides the head of a proxy's answer to CONNECT from
 * us: before libcurl 8.1, a proxy could corrupt the heap with it. CAPATH is
 * cleared, because the folder of CAs that libcurl was built with would count
 * beside CAINFO. NOPROXY: with a proxy that is set, no_proxy does not count.
 * A POST's body without a plaintext is handed over whole, and goes out with the
 * headers in one piece. The method is set last, because POSTFIELDS sets one,
 * too. */
static int
kaws__curl_set_options(CURL *e, const kaws__transfer *t)
{
    const kaws_request *q = t->q;
    const int plain = strncmp(q->url, "http:", 5) == 0;
    const CURLoption method = kaws__curl_method(q->method);
    const int whole = method == CURLOPT_POST && t->first == q->body.len;
    const struct { CURLoption option; long value; } numbers[] = {
        { CURLOPT_SUPPRESS_CONNECT_HEADERS, 1 }, { CURLOPT_NOSIGNAL, 1 },
        { CURLOPT_SSL_VERIFYPEER, 1 }, { CURLOPT_SSL_VERIFYHOST, 2 },
        { CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2 },
        { CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1 },
        { CURLOPT_FOLLOWLOCATION, 0 }, { CURLOPT_TIMEOUT_MS, q->timeout_ms },
        { CURLOPT_CONNECTTIMEOUT_MS, q->connect_timeout_ms },
        { CURLOPT_POSTFIELDSIZE, (long)q->body.len },
        { CURLOPT_INFILESIZE, (long)q->body.len },
        { CURLOPT_FRESH_CONNECT, t->conn->sock == CURL_SOCKET_BAD },
        { CURLOPT_VERBOSE, t->s->old }
    };
    const struct { CURLoption option; const void *value; } pointers[] = {
        { CURLOPT_URL, q->url }, { CURLOPT_PROXY, kaws__curl_proxy(t) },
        { CURLOPT_HTTPHEADER, t->lines }, { CURLOPT_SHARE, t->conn->share },
        { CURLOPT_POSTFIELDS, whole ? q->body.at : NULL },
        { CURLOPT_READDATA, t }, { CURLOPT_SEEKDATA, t },
        { CURLOPT_WRITEDATA, t }, { CURLOPT_HEADERDATA, t },
        { CURLOPT_DEBUGDATA, t }, { CURLOPT_ERRORBUFFER, t->error }
    };
    unsigned bad = 0;
    size_t i;

    for (i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        bad |= curl_easy_setopt(e, numbers[i].option, numbers[i].value);
    for (i = 0; i < sizeof pointers / sizeof pointers[0]; i++)
        bad |= curl_easy_setopt(e, pointers[i].option, pointers[i].value);
    bad |= curl_easy_setopt(e, method, 1L);
    bad |= curl_easy_setopt(e, CURLOPT_READFUNCTION, kaws__curl_on_read);
    bad |= curl_easy_setopt(e, CURLOPT_SEEKFUNCTION, kaws__curl_on_seek);
    bad |= curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, kaws__curl_on_body);
    bad |= curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, kaws__curl_on_header);
    bad |= curl_easy_setopt(e, CURLOPT_DEBUGFUNCTION, kaws__curl_on_words);
#if LIBCURL_VERSION_NUM >= 0x075500
    bad |= curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, plain ? "http" : "https");
#else
    bad |= curl_easy_setopt(e, CURLOPT_PROTOCOLS, plain ? (long)CURLPROTO_HTTP
                                                  : (long)CURLPROTO_HTTPS);
#endif
    if (t->s->proxy != NULL)
        bad |= curl_easy_setopt(e, CURLOPT_NOPROXY, "");
    if (t->s->ca_file != NULL) {
        bad |= curl_easy_setopt(e, CURLOPT_CAINFO, t->s->ca_file);
        (void)curl_easy_setopt(e, CURLOPT_CAPATH, NULL);
    }
    if (t->s->openssl_options != NULL) {
        (void)curl_easy_setopt(e, CURLOPT_SSL_CTX_FUNCTION, kaws__curl_on_ssl);
        (void)curl_easy_setopt(e, CURLOPT_SSL_CTX_DATA, t->s);
    }
    return bad == 0;
}


/* Runs the transfer to its end, and decides whether there is a reply and
 * whether the connection may be used again, as far as this room can tell. The
 * reply must have come over a new connection, or over the one that was found
 * silent. libcurl silently drops what it has read behind a reply without a body
 * (to HEAD, for example). So after such a reply we open a new connection, which
 * resumes the TLS session.
 * While an old libcurl resolves a name, waiting returns at once: if that
 * happens twice in a row, we pause. */
static CURLcode
kaws__curl_perform(const kaws__transfer *t)
{
    kaws__conn *conn = t->conn;
    curl_socket_t before = conn->sock, sock = CURL_SOCKET_BAD;
    CURLMcode code = curl_multi_add_handle(conn->multi, t->easy);
    const kaws_request *q = t->q;
    int most = q->cancelled != NULL ? KAWS__CANCEL_MS : 1000;
    int running = 1, active = 0, idle = 0;
    CURLMsg *done;
    int64_t since;
    long opened = 0;

    conn->sock = CURL_SOCKET_BAD;
    conn->sound = 0;
    while (code == CURLM_OK &&
           (code = curl_multi_perform(conn->multi, &running)) == CURLM_OK &&
           running > 0) {
        if (q->cancelled != NULL && q->cancelled(q->cancelled_arg))
            return CURLE_ABORTED_BY_CALLBACK;
        since = kaws__sys_ticks_us();
        code = curl_multi_wait(conn->multi, NULL, 0, most, &active);
        idle = active > 0 || kaws__sys_ticks_us() - since > 50000 ? 0
             : idle + 1;
        if (idle > 1)
            kaws__sys_sleep_ms(NULL, idle < 16 ? idle : 16);
    }
    done = code == CURLM_OK ? curl_multi_info_read(conn->multi, &running)
                            : NULL;
    if (done == NULL)
        return CURLE_OUT_OF_MEMORY;
    if (done->data.result != CURLE_OK)
        return done->data.result;
    if (!t->headed)
        return CURLE_PARTIAL_FILE;        /* libcurl accepts a cut-off head  */
    (void)curl_easy_getinfo(t->easy, CURLINFO_ACTIVESOCKET, &sock);
    (void)curl_easy_getinfo(t->easy, CURLINFO_NUM_CONNECTS, &opened);
    if (opened == 0 && (before == CURL_SOCKET_BAD ||
                        (sock != CURL_SOCKET_BAD && sock != before)))
        return CURLE_RECV_ERROR;
    if (t->r->body_len == 0)
        sock = CURL_SOCKET_BAD;           /* libcurl hides what came behind   */
    conn->sound = sock == CURL_SOCKET_BAD ||
                  (!t->overread && kaws__curl_tls_silent(t));
    conn->sock = sock;
    conn->used_us = kaws__sys_ticks_us();
    return CURLE_OK;
}


/* Turns libcurl's code into a status, and says in r->text why there is no
 * reply. If the URL of a proxy with a password is malformed, libcurl may split
 * it in the wrong place, so its message may hold pieces of the password. If
 * libcurl cannot use the proxy, its message has the whole URL. Then r->text
 * tells only the kind of the error, and what to do. */
static kaws_status
kaws__curl_outcome(const kaws__transfer *t, CURLcode code)
{
    const char *kind = curl_easy_strerror(code), *words = t->error;
    const char *proxy = kaws__curl_proxy(t), *name = "proxy";
    const char *via = proxy != NULL && *proxy != '\0' ? "through the proxy: "
                    : "";
    kaws_reply *r = t->r;
    int i, unusable;
    long http = 0;

    (void)curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &http);
    if (code == CURLE_OK || r->body_len > r->body_max) {
        r->http = (int)http;
        return KAWS_OK;
    }
    if (t->head > KAWS__CURL_HEAD_MAX ||
        (code == CURLE_OUT_OF_MEMORY && http != 0))
        words = "the reply's headers are far too long, or out of memory";
    unusable = strncmp(words, "Unsupported proxy", 17) == 0;
    (void)snprintf(r->text, sizeof r->text, "%s%.*s", via,
                   (int)(sizeof r->text - 1 - strlen(via)),
                   words[0] != '\0' ? words : kind);
    for (i = t->s->proxy != NULL ? 0 : 3; i >= 0; i--) {
        if ((proxy = t->s->proxy) == NULL)
            proxy = kaws__sys_env(name = kaws__url_proxies[i]);
        if (proxy != NULL && strchr(proxy, '@') != NULL &&
            (unusable || !kaws__url_proxy_ok(proxy)))
            (void)snprintf(r->text, sizeof r->text, "%s (check %s: percent-"
                           "encode its user and password)", kind, name);
    }
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return KAWS_CANCELLED;
    return unusable || code == CURLE_SSL_CACERT_BADFILE ||
           code == CURLE_URL_MALFORMAT ? KAWS_CONFIG : KAWS_NETWORK;
}


/* OK: there is a reply. NETWORK: there is none, and r->text says why. CONFIG:
 * likewise, because a setting is wrong. CANCELLED: q->cancelled said so. *lent
 * is for kaws__curl_done(), or NULL if memory ran out. The casts are safe,
 * because libcurl only reads the header lines. "Expect:" removes that header,
 * which would make libcurl wait for a 100. */
static kaws_status
kaws__curl_send(kaws__sender *s, const kaws_request *q, kaws_reply *r,
                void **lent)
{
    kaws__transfer t = { .s = s, .q = q, .r = r, .first = q->body.len };
    CURLcode code = CURLE_OUT_OF_MEMORY;
    kaws_status status;
    size_t i;

    while (t.first > 0 && q->body.at[t.first - 1] == ' ')
        t.first--;
    t.lines[0].data = (char *)(uintptr_t)"Expect:";
    t.lines[0].next = &t.lines[1];
    t.lines[1].data = (char *)(uintptr_t)("User-Agent: keyring_aws/"
                                          KAWS_VERSION);
    for (i = 2; i < KAWS__CURL_LINES && q->headers[i - 2] != NULL; i++) {
        t.lines[i - 1].next = &t.lines[i];
        t.lines[i].data = (char *)(uintptr_t)q->headers[i - 2];
    }
    *lent = t.conn = kaws__curl_lend(s, q);
    t.easy = t.conn != NULL ? curl_easy_init() : NULL;
    if (t.easy != NULL && q->headers[i - 2] == NULL &&
        kaws__curl_set_options(t.easy, &t))
        code = kaws__curl_perform(&t);
    status = kaws__curl_outcome(&t, code);
    if (t.easy != NULL)
        (void)curl_multi_remove_handle(t.conn->multi, t.easy);
    curl_easy_cleanup(t.easy);
    if (status == KAWS_OK && !t.conn->told)
        kaws__curl_tell_tls(&t);
    kaws_wipe(&t, sizeof t);
    return status;
}


/* ---- the sender's life ------------------------------------------------- */

static void
kaws__curl_global(void)
{
    /* Never undone: others in the process may use libcurl too. */
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
}


/* The config's ca_file and proxy are borrowed as long as the sender is open.
 * `plain`: the requests to AWS KMS are for plain HTTP, which uses no proxy. */
static kaws_status
kaws__curl_open(void **out, const kaws_hooks *hooks, const kaws_config *cfg,
                int plain, kaws_error *err)
{
    static kaws__once once = KAWS__ONCE;
    const curl_version_info_data *v;
    const char *tls;
    kaws__sender *s = kaws__mem_new(hooks, sizeof *s);
    kaws_status status = KAWS_OK;

    if (s == NULL || kaws__thread_lock_init(&s->lock, KAWS__RANK_SENDER) != 0) {
        kaws__mem_free(hooks, s, sizeof *s);
        return kaws__err_set(err, KAWS_MEMORY, "starting the HTTP sender: out "
                             "of memory");
    }
    kaws__thread_once(&once, kaws__curl_global);
    s->hooks = hooks;
    s->ca_file = cfg->ca_file;
    s->proxy = cfg->proxy;
    v = curl_version_info(CURLVERSION_NOW);
    tls = v->ssl_version != NULL ? v->ssl_version : "";
    s->old = v->version_num < 0x074700;
    if (strncmp(tls + (*tls == '('), "OpenSSL/", 8) == 0) {
        kaws__curl_symbol("SSL_CTX_set_options", &s->openssl_options);
        kaws__curl_symbol("SSL_get_version", &s->openssl_version);
        kaws__curl_symbol("SSL_ctrl", &s->openssl_ctrl);
        kaws__curl_symbol("SSL_group_to_name", &s->openssl_group);
    }
    kaws__curl_symbol("SSL_has_pending", &s->openssl_pending);
    if (s->openssl_pending == NULL)       /* OpenSSL before 1.1.0            */
        kaws__curl_symbol("SSL_pending", &s->openssl_pending);
    kaws__curl_symbol("gnutls_record_check_pending", &s->gnutls_pending);
    if (s->ca_file != NULL)
        status = kaws__curl_check_ca(s->ca_file, err);
    if (status == KAWS_OK && (s->proxy != NULL || !plain))
        status = kaws__url_check_proxy(hooks, s->proxy, &s->proxy_tls, err);
    if (status == KAWS_OK && kaws__sys_env("SSLKEYLOGFILE") != NULL)
        kaws__err_log(hooks, KAWS__LOG_TLS_KEYS);
    *out = s;
    return status;
}


static void
kaws__curl_close(kaws__sender *s)
{
    kaws__conn *conn;

    while ((conn = s->idle) != NULL) {
        s->idle = conn->next;
        kaws__curl_conn_free(s, conn);
    }
    kaws__thread_lock_free(&s->lock);
    kaws__mem_free(s->hooks, s, sizeof *s);
}

#else

/* There is no sender, so only the first of these is ever reached. */
#define kaws__curl_open(out, hooks, cfg, plain, err) \
    ((void)(plain), \
     kaws__err_set(err, KAWS_CONFIG, "built without libcurl " \
                   "(KEYRING_AWS_NO_CURL): kaws_config.hooks.send has to be " \
                   "set"))
#define kaws__curl_send(sender, q, r, lent) KAWS_NETWORK
#define kaws__curl_done(sender, lent, ok) ((void)(sender), (void)(ok))
#define kaws__curl_distrust(sender) ((void)(sender))
#define kaws__curl_close(sender) ((void)(sender))

#endif
/* built-in sender: end */


/* ==========================================================================
 * ROOM  http     send one request, get the reply that was made for it
 * ==========================================================================
 * Uses: thread err mem buf text url head curl
 * Gives: http_open http_abandon http_close http_send http_done http_forget
 *        http_distrust
 *
 * All requests go through kaws__http_send, which calls the `send` hook or the
 * built-in sender. Section 8 of the manual says why a connection is used again
 * only if its last exchange was clean: the reply was complete, its request id
 * was new, and the room that knows what was asked found nothing odd in the
 * reply. That room says so by kaws__http_done.
 */

#define KAWS__HTTP_HOSTS 32       /* more than a ring uses: one a region      */
#define KAWS__HTTP_IDS  256       /* request ids remembered for each host     */

typedef struct kaws__seen {       /* the last request ids of one host         */
    uint64_t host;                /* its digest                               */
    uint64_t ids[KAWS__HTTP_IDS];     /* their digests                        */
    unsigned count;               /* of ids so far, overwritten ones too      */
} kaws__seen;

typedef struct kaws__http {
    const kaws_hooks *hooks;
    void       *sender;           /* the built-in one; NULL: hooks->send      */
    kaws__lock  lock;             /* guards all below                         */
    unsigned    hosts;            /* how many so far, overwritten ones too    */
    kaws__seen  seen[KAWS__HTTP_HOSTS];
} kaws__http;


/* For cfg and plain see kaws__curl_open(). Close it even if this fails. */
static kaws_status
kaws__http_open(kaws__http *http, const kaws_hooks *hooks,
                const kaws_config *cfg, int plain, kaws_error *err)
{
    memset(http, 0, sizeof *http);
    if (kaws__thread_lock_init(&http->lock, KAWS__RANK_HTTP) != 0)
        return kaws__err_set(err, KAWS_MEMORY, "no lock for request ids");
    http->hooks = hooks;
    if (hooks->send != NULL && cfg->proxy != NULL)
        return kaws__err_set(err, KAWS_CONFIG, "proxy is set, and so is "
                             "hooks.send, which would not use it; set one of "
                             "them only");
    return hooks->send != NULL ? KAWS_OK
         : kaws__curl_open(&http->sender, hooks, cfg, plain, err);
}


/* For a forked child. libcurl would tell the parent's peers that a connection
 * ends, so we leave all that libcurl holds as it is. */
static void
kaws__http_abandon(kaws__http *http)
{
    http->sender = NULL;
}


static void
kaws__http_close(kaws__http *http)
{
    if (http->hooks == NULL)
        return;
    if (http->sender != NULL)
        kaws__curl_close(http->sender);
    kaws__thread_lock_free(&http->lock);
    memset(http, 0, sizeof *http);
}


/* Notes a reply's request id. Returns 0 if the host's last 256 include it. AWS
 * makes a new id for each request, so a reply that repeats an id answers
 * another request. Each host has a list of its own, so a busy host does not
 * push out the ids of a quiet one. If two digests collide, a good reply counts
 * as repeated. */
static int
kaws__http_note_id(kaws__http *http, const char *url, const char *id)
{
    const uint64_t host = kaws__buf_digest(kaws__url_origin(url));
    const uint64_t digest = kaws__buf_digest(kaws__buf_of(id));
    kaws__seen *seen = http->seen, *end = seen + KAWS__HTTP_HOSTS;
    unsigned i = 0;

    kaws__thread_lock(&http->lock);
    while (seen < end && seen->host != host)
        seen++;
    if (seen == end) {
        seen = &http->seen[http->hosts++ % KAWS__HTTP_HOSTS];
        *seen = (kaws__seen){ .host = host };
    }
    while (i < KAWS__HTTP_IDS && seen->ids[i] != digest)
        i++;
    if (i == KAWS__HTTP_IDS)
        seen->ids[seen->count++ % KAWS__HTTP_IDS] = digest;
    kaws__thread_unlock(&http->lock);
    return i == KAWS__HTTP_IDS;
}


/* An earlier reply belonged to a different request, and nobody knows over which
 * connection it came. So no connection that is open now is used again. */
static void
kaws__http_distrust(kaws__http *http)
{
    if (http->sender != NULL)
        kaws__curl_distrust(http->sender);
}


/* Wipes a reply's body. We do not know how much a `send` hook wrote, so after
 * a hook the whole buffer is wiped. */
static void
kaws__http_forget(const kaws__http *http, kaws_reply *r)
{
    kaws_wipe(r->body, http->sender == NULL || r->body_len > r->body_max
                       ? r->body_max : r->body_len);
    r->body_len = 0;
}


/* Sends the request. *r says which headers are wanted, and may still hold the
 * last attempt's reply. OK, NETWORK, CONFIG and CANCELLED are those of
 * kaws__curl_send; REPLY: the reply repeats a request id. (Some services send
 * none.) The caller judges the reply, then hands *lent to kaws__http_done. */
static kaws_status
kaws__http_send(kaws__http *http, const kaws_request *q, kaws_reply *r,
                void **lent)
{
    const kaws_hooks *hooks = http->hooks;
    const kaws_reply ours = *r;           /* a hook may change the pointers   */
    char *id = r->request_id, *end = id;
    kaws_status status;

    if (r->body_len > 0)
        kaws__http_forget(http, r);
    *r = (kaws_reply){ .body = ours.body, .body_max = ours.body_max,
                       .headers = ours.headers,
                       .header_count = ours.header_count };
    kaws__head_begin(r);
    *lent = NULL;
    if (http->sender != NULL)
        status = kaws__curl_send(http->sender, q, r, lent);
    else
        status = hooks->send(hooks->ctx, q, r) == 0 ? KAWS_OK : KAWS_NETWORK;
    r->body = ours.body;
    r->body_max = ours.body_max;
    r->headers = ours.headers;
    r->header_count = ours.header_count;
    r->text[sizeof r->text - 1] = '\0';
    r->request_id[sizeof r->request_id - 1] = '\0';
    for (; *id != '\0'; id++)             /* AWS's ids have nothing else     */
        if (*id == '-' || kaws__text_folded(*id))
            *end++ = *id;
    *end = '\0';
    if (status == KAWS_OK && r->http == 0)
        status = KAWS_NETWORK;
    if (status == KAWS_OK && end > r->request_id &&
        !kaws__http_note_id(http, q->url, r->request_id)) {
        kaws__http_distrust(http);        /* which of the two was wrong?     */
        status = KAWS_REPLY;
    }
    return status;
}


/* Call it once the reply is judged. `clean`: the reply is well formed and fits
 * the request. Otherwise its connection is closed. */
static void
kaws__http_done(kaws__http *http, void *lent, int clean)
{
    if (lent != NULL)
        kaws__curl_done(http->sender, lent, clean);
}


/* ==========================================================================
 * ROOM  arn      what ARNs, regions and endpoints of AWS say
 * ==========================================================================
 * Uses: err buf text url
 * Gives: arn_partition arn_region_ok arn_word_ok arn_is_known arn_has_fips
 *        arn_parse arn_target arn_fits arn_is_multi arn_move arn_unrelated
 *        arn_endpoint_ok arn_url
 *
 * Pure functions and their tables: they keep no state, and send no request.
 *
 *     arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-...
 *     arn:PARTITION:kms:REGION:ACCOUNT:RESOURCE
 *
 * A target is the KMS key that a request names, and the region that the request
 * goes to. If the KMS key is named by ARN, the region is the ARN's, so an old
 * entry stays readable whatever the settings say now.
 */

#define KAWS__ARN_MAX        255  /* of a KMS key id, alias or ARN            */
#define KAWS__ARN_REGION_MAX  32

typedef struct kaws__arn {
    kaws_bytes partition, region, account, resource;
} kaws__arn;

typedef struct kaws__target {
    char key_id[KAWS__ARN_MAX + 1];       /* "" = no KMS key                  */
    char region[KAWS__ARN_REGION_MAX + 1];
} kaws__target;

/* Which of a region's hosts is meant; 0: the usual one. */
enum { KAWS__FIPS = 1, KAWS__DUALSTACK = 2 };

typedef struct kaws__partition {
    const char *prefix;           /* of its regions' names                    */
    const char *name;             /* in ARNs                                  */
    const char *suffix[2];        /* of its hosts, and of its dual-stack ones */
    int         sts_is_fips;      /* STS's usual hosts are its FIPS hosts     */
} kaws__partition;


/* The partition of a region (botocore's endpoint rules, 2026). All regions
 * that no other prefix fits are in the last partition. */
static const kaws__partition *
kaws__arn_partition(const char *region)
{
    static const kaws__partition partitions[] = {
        { "cn-",      "aws-cn",
          { "amazonaws.com.cn", "api.amazonwebservices.com.cn" }, 0 },
        { "us-gov-",  "aws-us-gov", { "amazonaws.com",  "api.aws" }, 1 },
        { "us-iso-",  "aws-iso",    { "c2s.ic.gov",     "api.aws.ic.gov" }, 0 },
        { "us-isob-", "aws-iso-b",  { "sc2s.sgov.gov",  "api.aws.scloud" }, 0 },
        { "eu-isoe-", "aws-iso-e",
          { "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk" }, 0 },
        { "us-isof-", "aws-iso-f",
          { "csp.hci.ic.gov", "api.aws.hci.ic.gov" }, 0 },
        { "eusc-",    "aws-eusc",
          { "amazonaws.eu",   "api.amazonwebservices.eu" }, 0 },
        { "",         "aws",        { "amazonaws.com",  "api.aws" }, 0 }
    };
    const kaws__partition *p = partitions;

    while (strncmp(region, p->prefix, strlen(p->prefix)) != 0)
        p++;
    return p;
}


/* "eu-west-1", "us-gov-east-1": two or more words of letters, then a number.
 * The region becomes part of a host name, so nothing else may be in it. */
static int
kaws__arn_region_ok(kaws_bytes region)
{
    char text[KAWS__ARN_REGION_MAX + 1], *at = text, *word = text;
    size_t n, words = 0;

    if (!kaws__buf_copy_text(text, sizeof text, region))
        return 0;
    for (; (*at >= 'a' && *at <= 'z') || (*at == '-' && at > word); at++)
        if (*at == '-') {
            word = at + 1;
            words++;
        }
    n = strspn(word, "0123456789");
    return words >= 2 && (n == 1 || n == 2) && word[n] == '\0';
}


/* Letters, digits, - / and _ make up key ids and names of aliases. */
static int
kaws__arn_word_ok(kaws_bytes word)
{
    size_t i = 0;

    while (i < word.len && (kaws__text_folded(word.at[i]) ||
                            word.at[i] == '-' || word.at[i] == '/' ||
                            word.at[i] == '_'))
        i++;
    return i > 0 && i == word.len;
}


/* Returns what the table has of a region: "k" if AWS has a FIPS host for KMS
 * there, "s" for one for STS, up to a blank; or NULL if it does not have the
 * region. Both are as when this was written (botocore's endpoints.json). */
static const char *
kaws__arn_known(const char *region)
{
    static const char regions[] =
        " af-south-1:k ap-east-1:k ap-east-2: ap-northeast-1:k "
        "ap-northeast-2:k ap-northeast-3:k ap-south-1:k ap-south-2:k "
        "ap-southeast-1:k ap-southeast-2:k ap-southeast-3:k ap-southeast-4:k "
        "ap-southeast-5:k ap-southeast-6: ap-southeast-7:k ca-central-1:k "
        "ca-west-1:k cn-north-1: cn-northwest-1: eu-central-1:k eu-central-2:k "
        "eu-isoe-west-1:k eu-north-1:k eu-south-1:k eu-south-2:k eu-west-1:k "
        "eu-west-2:k eu-west-3:k eusc-de-east-1: il-central-1:k me-central-1:k "
        "me-south-1:k mx-central-1:k sa-east-1:k us-east-1:ks us-east-2:ks "
        "us-gov-east-1:ks us-gov-west-1:ks us-iso-east-1:k us-iso-west-1:k "
        "us-isob-east-1:k us-isob-west-1: us-isof-east-1:k us-isof-south-1:k "
        "us-west-1:ks us-west-2:ks ";
    char word[KAWS__ARN_REGION_MAX + 3];
    const char *at;

    (void)snprintf(word, sizeof word, " %s:", region);
    at = strstr(regions, word);
    return at == NULL ? NULL : at + strlen(word);
}


static int
kaws__arn_is_known(const char *region)
{
    return kaws__arn_known(region) != NULL;
}


/* Whether AWS has a FIPS host for "kms" or "sts" in that region, as far as we
 * know. The name of one can be made for every region. */
static int
kaws__arn_has_fips(const char *service, const char *region)
{
    const char *const marks = kaws__arn_known(region);

    return marks != NULL && memchr(marks, service[0], strcspn(marks, " "));
}


/* Splits the ARN of a KMS key or of an alias. Returns NULL, or why the text is
 * not one. */
static const char *
kaws__arn_split(kaws_bytes text, kaws__arn *out)
{
    char region[KAWS__ARN_REGION_MAX + 1], account[13];
    kaws_bytes arn, kms, rest = text;
    kaws_bytes *const parts[] = { &arn, &out->partition, &kms, &out->region,
                                  &out->account };
    size_t i;

    for (i = 0; i < 5; i++) {
        const uint8_t *colon = rest.len > 0 ? memchr(rest.at, ':', rest.len)
                                            : NULL;
        if (colon == NULL)
            return "it does not have six parts with colons between them";
        parts[i]->at = rest.at;
        parts[i]->len = (size_t)(colon - rest.at);
        rest.len -= parts[i]->len + 1;
        rest.at = colon + 1;
    }
    out->resource = rest;
    if (text.len > KAWS__ARN_MAX || !kaws__buf_same(arn, kaws__buf_of("arn")) ||
        !kaws__buf_same(kms, kaws__buf_of("kms")))
        return "it is too long, or does not begin with arn:PARTITION:kms:";
    if (!kaws__buf_copy_text(account, sizeof account, out->account) ||
        strspn(account, "0123456789") != 12)
        return "its account is not 12 digits";
    if (!kaws__arn_region_ok(out->region) ||
        !kaws__buf_copy_text(region, sizeof region, out->region))
        return "its region is not one of AWS";
    if (!kaws__buf_same(out->partition,
                        kaws__buf_of(kaws__arn_partition(region)->name)))
        return "its region belongs to another partition than it says";
    return kaws__arn_word_ok(rest) && (kaws__buf_begins(rest, "key/") ||
                                       kaws__buf_begins(rest, "alias/"))
         ? NULL : "it does not end with key/ or alias/ and a name";
}


static int
kaws__arn_parse(kaws_bytes text, kaws__arn *out)
{
    return kaws__arn_split(text, out) == NULL;
}


/* Makes the target of a KMS key as the user names it. `region` counts only if
 * that name is not an ARN. */
static kaws_status
kaws__arn_target(kaws__target *target, const char *key_id, const char *region,
                 kaws_error *err)
{
    kaws_bytes id = kaws__buf_of(key_id), where = kaws__buf_of(region);
    kaws__arn arn;
    const char *wrong = kaws__arn_split(id, &arn);
    char shown[96];

    if (wrong == NULL)
        where = arn.region;
    else if (kaws__buf_begins(id, "arn:"))
        return kaws__err_set(err, KAWS_ARGUMENT, "'%s' is not the ARN of a KMS "
                             "key: %s", kaws__text_show(shown, sizeof shown,
                                                        id), wrong);
    else if (id.len > KAWS__ARN_MAX || !kaws__arn_word_ok(id))
        return kaws__err_set(err, KAWS_ARGUMENT, "'%s' is not the id, ARN or "
                             "alias of a KMS key (an alias begins with alias/, "
                             "an ARN with arn:aws:kms:; 255 bytes at most)",
                             kaws__text_show(shown, sizeof shown, id));
    (void)kaws__buf_copy_text(target->key_id, sizeof target->key_id, id);
    (void)kaws__buf_copy_text(target->region, sizeof target->region, where);
    return KAWS_OK;
}


/* Whether the ARN in a reply can be that of the target's KMS key. */
static int
kaws__arn_fits(const kaws__target *target, const char *arn_text)
{
    kaws_bytes id = kaws__buf_of(target->key_id);
    kaws__arn want, got;

    if (!kaws__arn_parse(kaws__buf_of(arn_text), &got) ||
        !kaws__buf_begins(got.resource, "key/") ||
        !kaws__buf_same(got.region, kaws__buf_of(target->region)))
        return 0;
    if (!kaws__arn_parse(id, &want))
        return kaws__buf_begins(id, "alias/") ||
               strcmp(strchr(arn_text, '/') + 1, target->key_id) == 0;
    return kaws__buf_begins(want.resource, "key/")
         ? strcmp(target->key_id, arn_text) == 0
         : kaws__buf_same(want.partition, got.partition) &&
           kaws__buf_same(want.account, got.account);
}


/* ---- multi-region keys: one KMS key in several regions ------------------ */

/* Is it the id or the ARN of a multi-region key? An alias never is: in another
 * region the same alias may mean another KMS key. */
static int
kaws__arn_is_multi(const char *key_id)
{
    const char *slash = strchr(key_id, '/');
    kaws__arn arn;

    if (!kaws__arn_parse(kaws__buf_of(key_id), &arn))
        return slash == NULL && strncmp(key_id, "mrk-", 4) == 0;
    return kaws__buf_begins(arn.resource, "key/mrk-");
}


/* Writes what names the same multi-region key in another region: only the
 * region of its ARN differs. */
static void
kaws__arn_move(kaws__target *out, const char *key_id, const char *region)
{
    kaws__buf to = kaws__buf_fixed(out->key_id, sizeof out->key_id);
    kaws__arn arn;

    memset(out->key_id, 0, sizeof out->key_id);
    if (kaws__arn_parse(kaws__buf_of(key_id), &arn)) {
        kaws__buf_put(&to, key_id, (size_t)((const char *)arn.region.at -
                                            key_id));
        kaws__buf_text(&to, region);
        key_id = (const char *)arn.region.at + arn.region.len;
    }
    kaws__buf_text(&to, key_id);
    (void)kaws__buf_copy_text(out->region, sizeof out->region,
                              kaws__buf_of(region));
}


/* Why the ARN in a reply from `region` cannot be that of the wanted
 * multi-region key there; NULL if it can. `want` is an ARN, or a key id. */
static const char *
kaws__arn_unrelated(const char *want, kaws_bytes got_text, const char *region)
{
    kaws_bytes id = kaws__buf_of(want);
    kaws__arn arn, got;
    int whole = kaws__arn_parse(id, &arn);

    if (!kaws__arn_parse(got_text, &got))
        return "it is not the ARN of a KMS key";
    if (!kaws__buf_begins(got.resource, "key/mrk-"))
        return "it is not a multi-region key";
    if (!kaws__buf_same(got.region, kaws__buf_of(region)))
        return "it is in another region than the one that was asked";
    if (whole && (!kaws__buf_same(got.partition, arn.partition) ||
                  !kaws__buf_same(got.account, arn.account)))
        return "it belongs to another account";
    if (!whole) {
        got.resource.at += strlen("key/");
        got.resource.len -= strlen("key/");
    }
    return kaws__buf_same(got.resource, whole ? arn.resource : id)
         ? NULL : "it is a different multi-region key";
}


/* ---- where requests go ------------------------------------------------- */

/* Is it https://host[:port][/], or http:// to this machine? */
static int
kaws__arn_endpoint_ok(const char *endpoint)
{
    static const char *const begins[] = { "https://", "http://localhost",
                                          "http://127.0.0.1", "http://[::1]" };
    kaws_bytes host = { NULL, 0 };
    size_t i, n;

    for (i = 0; i < 4 && host.at == NULL; i++) {
        n = strlen(begins[i]);
        if (strncmp(endpoint, begins[i], n) == 0 &&
            (i == 0 || strchr(":/", endpoint[n]) != NULL))
            host = kaws__buf_of(strchr(endpoint, '/') + 2);
    }
    host.len -= host.len > 0 && host.at[host.len - 1] == '/';
    return host.len <= 150 && kaws__url_host_ok(host);
}


/* Where requests to "kms" or "sts" go: to the region's own host that `flags`
 * mean, or to the endpoint, if that is not NULL. */
static void
kaws__arn_url(char *out, size_t cap, const char *service, const char *endpoint,
              const char *region, int flags)
{
    const kaws__partition *const p = kaws__arn_partition(region);
    const int dual = (flags & KAWS__DUALSTACK) != 0;
    const int usual = !(flags & KAWS__FIPS) ||
                      (p->sts_is_fips && *service == 's' && !dual);

    if (endpoint == NULL)
        (void)snprintf(out, cap, "https://%s%s.%s.%s/", service,
                       usual ? "" : "-fips", region, p->suffix[dual]);
    else
        (void)snprintf(out, cap, "%s%s", endpoint,
                       endpoint[strlen(endpoint) - 1] == '/' ? "" : "/");
}


/* ==========================================================================
 * ROOM  regions  the failover regions of the settings
 * ==========================================================================
 * Uses: err buf text ini arn
 * Gives: regions_open regions_suit regions_serves regions_endpoint
 *
 * A multi-region key exists, with one id and one key material, in several
 * regions: what one of them seals, each of them opens. So if the KMS key's own
 * region does not answer, the regions of this list may, in their order. This
 * room reads the list. Room route follows it.
 */

enum { KAWS__REGIONS_MAX = 8 };

typedef struct kaws__regions {
    int count;
    struct {
        char region[KAWS__ARN_REGION_MAX + 1];
        char endpoint[168];       /* "": the region's own host                */
    } to[KAWS__REGIONS_MAX];
} kaws__regions;


/* Cuts the next item, without the blanks around it, off the front of a list. */
static kaws_bytes
kaws__regions_item(const char **list)
{
    const uint8_t *const at = (const uint8_t *)*list;
    const size_t len = strcspn(*list, ",");

    *list += len + (at[len] == ',');
    return kaws__ini_trim(at, at + len);
}


/* Adds "REGION" or "REGION=URL" to the list. Returns NULL, or why not. */
static const char *
kaws__regions_add(kaws__regions *r, kaws_bytes item)
{
    const uint8_t *sign = item.len > 0 ? memchr(item.at, '=', item.len) : NULL;
    const uint8_t *const end = item.at + item.len;
    kaws_bytes region = kaws__ini_trim(item.at, sign != NULL ? sign : end);
    kaws_bytes url = { NULL, 0 };
    int i;

    if (item.len == 0)
        return "nothing stands before one of its commas";
    if (r->count == KAWS__REGIONS_MAX)
        return "there can be 8 regions at most";
    if (!kaws__arn_region_ok(region) ||
        !kaws__buf_copy_text(r->to[r->count].region,
                             sizeof r->to[r->count].region, region))
        return "that is not a region of AWS, such as eu-west-1, or "
               "eu-west-1=https://host (in lower case, with commas between "
               "regions)";
    for (i = 0; i < r->count; i++)
        if (strcmp(r->to[i].region, r->to[r->count].region) == 0)
            return "that region is in the list twice";
    if (sign != NULL)
        url = kaws__ini_trim(sign + 1, end);
    if (!kaws__buf_copy_text(r->to[r->count].endpoint,
                             sizeof r->to[r->count].endpoint, url) ||
        (sign != NULL && !kaws__arn_endpoint_ok(r->to[r->count].endpoint)))
        return "what follows its = is not of the form https://host or "
               "https://host:port";
    r->count++;
    return NULL;
}


/* Reads the list of config.failover_regions; NULL or blank: it is empty.
 * All regions must be in the partition of `region`. */
static kaws_status
kaws__regions_open(kaws__regions *r, const char *list, const char *region,
                   kaws_error *err)
{
    const char *why;
    kaws_bytes item;

    r->count = 0;
    if (list == NULL)
        return KAWS_OK;
    list += strspn(list, " \t");
    while (*list != '\0') {
        item = kaws__regions_item(&list);
        why = kaws__regions_add(r, item);
        if (why == NULL &&
            kaws__arn_partition(r->to[r->count - 1].region) !=
            kaws__arn_partition(region))
            why = "that region is in a different partition of AWS than the KMS "
                  "key";
        if (why != NULL)
            return kaws__err_set(err, KAWS_CONFIG, "failover_regions: '%s': %s",
                                 KAWS__SHOW(item), why);
        list += strspn(list, " \t");
    }
    return KAWS_OK;
}


/* Whether that region of the list may answer in place of home. */
static int
kaws__regions_serves(const kaws__regions *r, int i, const char *home)
{
    return strcmp(r->to[i].region, home) != 0 &&
           kaws__arn_partition(r->to[i].region) == kaws__arn_partition(home);
}


/* Returns the URL that the list has for the region: that is where all requests
 * in it go. If it has none, returns `other`. */
static const char *
kaws__regions_endpoint(const kaws__regions *r, const char *region,
                       const char *other)
{
    int i;

    for (i = 0; i < r->count; i++)
        if (r->to[i].endpoint[0] != '\0' &&
            strcmp(r->to[i].region, region) == 0)
            return r->to[i].endpoint;
    return other;
}


/* A KMS key that is no multi-region key could never be replaced: CONFIG. For an
 * alias, only a reply tells. */
static kaws_status
kaws__regions_suit(const kaws__regions *r, const char *key_id, kaws_error *err)
{
    kaws__arn arn;
    int alias = kaws__arn_parse(kaws__buf_of(key_id), &arn)
              ? kaws__buf_begins(arn.resource, "alias/")
              : strncmp(key_id, "alias/", 6) == 0;

    if (r->count == 0 || *key_id == '\0' || alias ||
        kaws__arn_is_multi(key_id))
        return KAWS_OK;
    return kaws__err_set(err, KAWS_CONFIG, "failover_regions is set, but the "
                         "KMS key %s is not a multi-region key, which exists "
                         "in several regions and has an id that begins with "
                         "mrk-: make one (aws kms create-key --multi-region) "
                         "and its replicas (aws kms replicate-key), and set it "
                         "as the KMS key; or unset failover_regions", key_id);
}


/* ==========================================================================
 * ROOM  hosts    which hosts of AWS KMS and AWS STS the ring asks
 * ==========================================================================
 * Uses: sys err buf text arn regions
 * Gives: hosts_open hosts_url hosts_doubt hosts_doubt_all
 *
 * They are those of the region, by the rules in room arn, unless a URL is set.
 * It is used as it is: an administrator who sets a URL means that URL.
 */

typedef struct kaws__hosts {
    const char *kms, *sts;        /* endpoints: borrowed; NULL: by region     */
    const kaws__regions *listed;  /* borrowed: their URLs; NULL: none         */
    int         flags;            /* KAWS__FIPS and KAWS__DUALSTACK           */
    char        doubted[KAWS__ARN_REGION_MAX + 1];    /* the last one         */
} kaws__hosts;


/* A switch is on if the config says so or, with "native", a variable. */
static kaws_status
kaws__hosts_switch(kaws__hosts *h, const char *auth, int on, const char *name,
                   int flag, kaws_error *err)
{
    const int native = auth != NULL && strcmp(auth, "native") == 0;
    const char *value = native ? kaws__sys_own_env(name) : NULL;
    const kaws_bytes is = kaws__buf_of(value != NULL ? value : "false");
    const int variable = kaws__text_alike(is, "true");

    if (on || variable)
        h->flags |= flag;
    return variable || kaws__text_alike(is, "false") ? KAWS_OK
         : kaws__err_set(err, KAWS_CONFIG, "%s in the environment is '%s', and "
                         "has to be true or false", name, KAWS__SHOW(is));
}


/* Checks an endpoint, which may be NULL. */
static kaws_status
kaws__hosts_check(const kaws__hosts *h, const kaws_hooks *hooks,
                  const char *name, const char *url, kaws_error *err)
{
    const char *const shown = KAWS__SHOW(kaws__buf_of(url != NULL ? url : ""));

    if (url == NULL)
        return KAWS_OK;
    if (!kaws__arn_endpoint_ok(url))
        return kaws__err_set(err, KAWS_CONFIG, "%s '%s' is not of the form "
                             "https://host or https://host:port", name, shown);
    if (h->flags & KAWS__FIPS)
        kaws__err_log(hooks, KAWS__LOG_FIPS_AS_SET, name, shown);
    return KAWS_OK;
}


/* The config's strings are borrowed, and the regions, which may be read later.
 */
static kaws_status
kaws__hosts_open(kaws__hosts *h, const kaws_hooks *hooks,
                 const kaws_config *cfg, const kaws__regions *listed,
                 kaws_error *err)
{
    kaws_status status;

    *h = (kaws__hosts){ .kms = cfg->endpoint, .sts = cfg->sts_endpoint,
                        .listed = listed };
    status = kaws__hosts_switch(h, cfg->auth, cfg->fips,
                                "AWS_USE_FIPS_ENDPOINT", KAWS__FIPS, err);
    if (status == KAWS_OK)
        status = kaws__hosts_switch(h, cfg->auth, cfg->dualstack,
                                    "AWS_USE_DUALSTACK_ENDPOINT",
                                    KAWS__DUALSTACK, err);
    if (status == KAWS_OK)
        status = kaws__hosts_check(h, hooks, "endpoint", h->kms, err);
    if (status == KAWS_OK)
        status = kaws__hosts_check(h, hooks, "sts_endpoint", h->sts, err);
    return status;
}


/* Returns the URL that is set for requests to "kms" or "sts" in a region, or
 * NULL. Of those for KMS, the list's goes first. `endpoint` is for home. */
static const char *
kaws__hosts_set(const kaws__hosts *h, const char *service, const char *region,
                int at_home)
{
    const char *const endpoint = at_home ? h->kms : NULL;

    return *service == 's' ? h->sts : h->listed == NULL ? endpoint
         : kaws__regions_endpoint(h->listed, region, endpoint);
}


/* Where requests to "kms" or "sts" go, for a region. */
static void
kaws__hosts_url(const kaws__hosts *h, char *out, size_t cap,
                const char *service, const char *region, int at_home)
{
    kaws__arn_url(out, cap, service,
                  kaws__hosts_set(h, service, region, at_home), region,
                  h->flags);
}


/* Warns if requests to a region would be for a FIPS host that is not there, but
 * not twice in a row. */
static void
kaws__hosts_doubt(kaws__hosts *h, const kaws_hooks *hooks, const char *service,
                  const char *region)
{
    if (!(h->flags & KAWS__FIPS) || strcmp(h->doubted, region) == 0 ||
        kaws__hosts_set(h, service, region, 1) != NULL)
        return;
    (void)snprintf(h->doubted, sizeof h->doubted, "%s", region);
    if (!kaws__arn_has_fips(service, region))
        kaws__err_log(hooks, KAWS__LOG_NO_FIPS, *service == 'k' ? "AWS KMS"
                      : "AWS STS", region);
}


/* The same for KMS at home, and in all regions of the list. */
static void
kaws__hosts_doubt_all(kaws__hosts *h, const kaws_hooks *hooks, const char *home)
{
    const kaws__regions *const r = h->listed;
    kaws__hosts there = { .listed = r, .flags = h->flags };
    int i;

    kaws__hosts_doubt(h, hooks, "kms", home);
    for (i = 0; i < r->count; i++) {
        const char *const region = r->to[i].region;
        (void)kaws__hosts_check(&there, hooks, "failover_regions",
                                kaws__hosts_set(&there, "kms", region, 0),
                                NULL);
        if (strcmp(region, home) != 0)
            kaws__hosts_doubt(&there, hooks, "kms", region);
    }
}


/* ==========================================================================
 * ROOM  sources  where AWS credentials come from
 * ==========================================================================
 * Uses: thread disk err mem buf text json sigv4 http hosts
 * Gives: sources_judge sources_open sources_read sources_end
 *
 * A source has a name, and a function that finds credentials or says why there
 * are none. The first source that is configured is the only one: if it fails,
 * no other is asked. The sources here are the program's hook and the conf file;
 * room native has the others. The conf file holds the access key id, the secret
 * access key and, if there is one, the session token, one a line. A source
 * keeps no credentials. What it reads goes into memory that the caller lends
 * and wipes.
 *
 * People paste the conf file's text from many places. We remove blanks, a name
 * and a pair of quotes around a value. If anything that is left cannot be part
 * of an AWS value, we refuse the file: the error names the line and the column,
 * but shows no piece of a value.
 */

#define KAWS__SOURCES_ID_MAX     128
#define KAWS__SOURCES_TOKEN_MAX 4096
#define KAWS__SOURCES_TEXT_MAX  6144

typedef struct kaws__source kaws__source;
typedef struct kaws__sources kaws__sources;

typedef struct kaws__seek {       /* what a source is told, and what it finds */
    int          refused;         /* AWS refused those that we have           */
    int64_t      now;             /* Unix seconds, by the clock of AWS        */
    int          left_ms;         /* what the source may take                 */
    kaws__http  *http;            /* for a source that is asked over HTTP     */
    const char  *region;          /* of the KMS key; there AWS STS is asked   */
    kaws__cancel cancel;          /* who may end it                           */
    uint8_t     *text;            /* room: KAWS__SOURCES_TEXT_MAX bytes       */
    kaws_bytes   secret[2];       /* no error may hold a piece of these       */
    kaws_bytes   found[3];        /* id, secret, token; no id: nothing new    */
    int64_t      expires;         /* Unix seconds; 0: they do not             */
    char         owner[192];      /* whose they are, for a log; "": not told  */
} kaws__seek;

/* A role, and what AWS STS is told to give its credentials. All are borrowed;
 * all but the ARN may be NULL. */
typedef struct kaws__role {
    const char *arn;
    const char *external_id, *session;
    const char *token_file;       /* a web identity's; NULL: we sign          */
    int         seconds;          /* that they live; 0: as AWS likes          */
} kaws__role;

struct kaws__sources {
    const kaws_hooks   *hooks;
    const kaws__source *source;   /* the row that is configured               */
    const char *conf_file;        /* borrowed; may be NULL                    */
    int         native;           /* the row is one of room native's          */
    const char *profile;          /* as the config has them: borrowed, or     */
    const char *files[2];         /* NULL; config file, credentials file      */
    kaws__role  role;             /* that follows; the ARN is NULL: none      */
    kaws_status (*then)(kaws__sources *s, kaws__seek *seek, kaws_error *err);
                                  /* goes on to it; NULL: the row does that   */
    kaws__hosts hosts;            /* of AWS STS                               */
    char        shown[KAWS__TEXT_SHOWN];  /* what messages add to the name    */
    kaws__stat  seen;             /* the conf file when it was last read      */
};

struct kaws__source {
    const char *name;             /* as messages call it                      */
    kaws_status (*find)(kaws__sources *s, kaws__seek *seek, kaws_error *err);
};


/* ---- what credentials may be ------------------------------------------- */

/* The parts of credentials. A name in the conf file says which part a value is;
 * without names, the order does. Some tools use an older name for the token. */
static const struct { const char *name, *called; size_t most; }
kaws__sources_parts[] = {
    { "aws_access_key_id",     "access key id",     KAWS__SOURCES_ID_MAX },
    { "aws_secret_access_key", "secret access key", KAWS__SIGV4_SECRET_MAX },
    { "aws_session_token",     "session token",     KAWS__SOURCES_TOKEN_MAX },
    { "aws_security_token",    "session token",     KAWS__SOURCES_TOKEN_MAX }
};

enum { KAWS__TOKEN = 2, KAWS__OTHER = 4, KAWS__UNNAMED };    /* parts, or not */


/* Returns NULL, or what a value has that AWS's never have; *at is where. */
static const char *
kaws__sources_odd(int part, kaws_bytes value, const uint8_t **at)
{
    size_t i = 0;

    for (*at = value.at; i < value.len; i++, ++*at)
        if (**at <= ' ' || **at > '~')
            return **at == ' ' || **at == '\t'
                 ? "a blank" : "a byte that is not visible ASCII";
    return value.len <= kaws__sources_parts[part].most ? NULL
         : "it is longer than the longest that AWS has";
}


/* Has the text the form of an AWS access key id that begins with `begins`? */
static int
kaws__sources_is_id(kaws_bytes text, const char *begins)
{
    return text.len >= 16 && kaws__buf_begins(text, begins);
}


/* Checks all parts together. Returns NULL, or what is wrong with part *part. */
static const char *
kaws__sources_lacks(const kaws_bytes found[3], int *part)
{
    const int parts = kaws__sources_is_id(found[0], "ASIA") ? 3 : 2;

    for (*part = 0; *part < parts; ++*part)
        if (found[*part].len == 0)
            return *part < KAWS__TOKEN ? "is missing" : "is missing; an id "
                   "that begins with ASIA needs one";
    *part = 1;
    return found[1].len == 20 && (kaws__sources_is_id(found[1], "AKIA") ||
                                  kaws__sources_is_id(found[1], "ASIA"))
         ? "has the form of an access key id; are the two swapped?" : NULL;
}


/* Checks each part, and then all together. Returns NULL, or what is wrong with
 * part *part. A message puts *between after the part's name. */
static const char *
kaws__sources_judge(const kaws_bytes found[3], int *part, const char **between)
{
    const char *wrong = NULL;
    const uint8_t *at;

    *between = ": ";
    for (*part = 0; *part < 3; ++*part)
        if ((wrong = kaws__sources_odd(*part, found[*part], &at)) != NULL)
            return wrong;
    *between = " ";
    return kaws__sources_lacks(found, part);
}


/* ---- the conf file's text ---------------------------------------------- */

typedef struct kaws__conf {       /* the file, as it is read                  */
    kaws_bytes *found;
    int         count, named;     /* values so far, and whether by names      */
    int         number;           /* of the line that is read                 */
    const uint8_t *start, *at;    /* of that line; the byte to be blamed      */
    kaws_bytes  line;             /* that line, without blanks around it      */
    char        wrong[160];
} kaws__conf;


/* The text up to `end`, without blanks around it. */
static kaws_bytes
kaws__sources_trim(const uint8_t *at, const uint8_t *end)
{
    while (at < end && memchr(" \t\r", *at, 3) != NULL)
        at++;
    while (at < end && memchr(" \t\r", end[-1], 3) != NULL)
        end--;
    return (kaws_bytes){ at, (size_t)(end - at) };
}


/* Moves on to the next line that is neither blank nor a comment. *left becomes
 * the text after it. Returns 0 if there is no such line. */
static int
kaws__sources_line(kaws__conf *c, kaws_bytes *left)
{
    const uint8_t *at = left->at, *const end = at + left->len;

    do {
        if (at == end)
            return 0;
        c->number++;
        for (c->start = at; at < end && *at != '\n'; at++)
            continue;
        c->line = kaws__sources_trim(c->start, at);
        at += at < end;
    } while (c->line.len == 0 || *c->line.at == '#' || *c->line.at == ';');
    *left = (kaws_bytes){ at, (size_t)(end - at) };
    return 1;
}


/* Cuts the name off a line `name = value`, which may begin with a word of a
 * shell (export, set, $Env:). Returns the part that has this name, KAWS__OTHER
 * if no part has it, or KAWS__UNNAMED if the line has no name. A = that ends
 * base64 does not make what precedes it a name. */
static int
kaws__sources_name(kaws_bytes *line)
{
    const uint8_t *const end = line->at + line->len;
    const uint8_t *const equals = memchr(line->at, '=', line->len);
    kaws_bytes name, value;
    size_t i;
    int part = 0;

    if (equals == NULL)
        return KAWS__UNNAMED;
    name = kaws__sources_trim(line->at, equals);
    value = kaws__sources_trim(equals + 1, end);
    for (i = name.len; i > 0 && kaws__sigv4_unreserved(name.at[i - 1]);)
        i--;
    if (i > 0 && memchr(" \t:", name.at[i - 1], 3) == NULL)
        return KAWS__UNNAMED;
    name = (kaws_bytes){ name.at + i, name.len - i };
    while (part < KAWS__OTHER &&
           !kaws__text_alike(name, kaws__sources_parts[part].name))
        part++;
    for (i = 0; i < value.len && memchr("=\"'", value.at[i], 3) != NULL;)
        i++;
    if (part == KAWS__OTHER && i == value.len)
        return KAWS__UNNAMED;
    *line = value;
    return part;
}


/* Removes the quotes around a value, but nothing that could belong to it.
 * Returns NULL, or what the value has that AWS's never have. */
static const char *
kaws__sources_value(kaws__conf *c, int part, kaws_bytes *value)
{
    static const struct { char c; const char *words; } odd[] = {
        { '{', "'{': JSON is not read" },                     /* at the start */
        { '$', "'$': variables are not replaced" },
        { '<', "'<': it looks like a placeholder" },
        { '%', "'%', which zsh prints after output without a newline" },
        { '"', "a quote that has no partner" },               /* anywhere     */
        { '\'', "a quote that has no partner" },
        { ',', "',', as CSV and JSON have" },
        { ';', "';', as commands of a shell have" },
        { '/', "'/', which no id has; are the id and the secret swapped?" }
    };
    const size_t rows = sizeof odd / sizeof odd[0] - (part > 0);
    size_t i;

    if (value->len > 1 && (*value->at == '"' || *value->at == '\'') &&
        value->at[value->len - 1] == *value->at)
        *value = (kaws_bytes){ value->at + 1, value->len - 2 };
    for (i = 0; i < rows && value->len > 0; i++) {
        c->at = i < 3 ? value->at : i == 3 ? value->at + value->len - 1
              : memchr(value->at, odd[i].c, value->len);
        if (c->at != NULL && *c->at == odd[i].c)
            return odd[i].words;
    }
    return kaws__sources_odd(part, *value, &c->at);
}


/* Takes over the value in c->line. Either all values have names, or none has.
 * Returns NULL, or what is wrong. */
static const char *
kaws__sources_take(kaws__conf *c)
{
    kaws_bytes value = c->line;
    int part = kaws__sources_name(&value), named = part != KAWS__UNNAMED;
    const char *wrong;

    c->at = c->line.at;
    if (*c->at == '[' && c->at[c->line.len - 1] == ']')
        return c->count > 0 ? "a second profile: leave only one" : NULL;
    if (c->count > 0 && named != c->named)
        return named ? "a name, though the values before have none"
                     : "no name, though the values before have one";
    if (part == KAWS__OTHER)
        return NULL;                      /* such as region = ...             */
    if (!named && c->count > KAWS__TOKEN)
        return "one value too many";
    c->named = named;
    part = !named ? c->count : part < KAWS__TOKEN ? part : KAWS__TOKEN;
    c->count++;
    wrong = kaws__sources_value(c, part, &value);
    if (wrong == NULL && c->found[part].len > 0 &&
        !kaws__buf_same(c->found[part], value)) {
        wrong = "it contradicts an earlier line of that name";
        c->at = value.at;
    }
    c->found[part] = value;
    return wrong;
}


/* Finds the credentials in the conf file's text. Returns "", or what is wrong
 * with it. */
static const char *
kaws__sources_parse(kaws__conf *c, kaws_bytes text, kaws_bytes found[3])
{
    const char *wrong = NULL, *lacks;
    int part;

    *c = (kaws__conf){ .found = found };
    memset(found, 0, 3 * sizeof *found);
    if (kaws__buf_begins(text, "\xff\xfe") ||
        kaws__buf_begins(text, "\xfe\xff"))
        return "it is UTF-16: save it as UTF-8";
    if (kaws__buf_begins(text, "\xef\xbb\xbf"))
        text = (kaws_bytes){ text.at + 3, text.len - 3 };
    while (wrong == NULL && kaws__sources_line(c, &text))
        wrong = kaws__sources_take(c);
    lacks = kaws__sources_lacks(found, &part);
    if (wrong != NULL)
        (void)snprintf(c->wrong, sizeof c->wrong, "line %d, column %d: %s",
                       c->number, (int)(c->at - c->start) + 1, wrong);
    else if (lacks != NULL && found[part].len == 0)
        (void)snprintf(c->wrong, sizeof c->wrong, "the %s (line %d, or %s) %s",
                       kaws__sources_parts[part].called, part + 1,
                       kaws__sources_parts[part].name, lacks);
    else if (lacks != NULL)
        (void)snprintf(c->wrong, sizeof c->wrong, "the %s %s",
                       kaws__sources_parts[part].called, lacks);
    return c->wrong;
}


/* Finds the credentials in a JSON object, as MySQL's keyring component has them
 * in its settings. Returns "", or what is wrong. */
static const char *
kaws__sources_json(kaws__conf *c, uint8_t *text, size_t len,
                   kaws_bytes found[3])
{
    kaws__member want[] = { { "access_key_id", { NULL, 0 }, 0 },
                            { "access_key_secret", { NULL, 0 }, 0 },
                            { "session_token", { NULL, 0 }, 0 } };
    kaws__json j = { .at = text, .end = text + len, .line = text,
                     .inside = "aws_authentication" };
    const char *between, *wrong = kaws__json_read_in(&j, want, 3);
    size_t i;
    int part;

    *c = (kaws__conf){ .found = found };
    for (i = 0; i < 3; i++)
        found[i] = want[i].value;
    if (wrong != NULL)
        (void)snprintf(c->wrong, sizeof c->wrong, "line %d, column %d: %s",
                       j.lines + 1, (int)(j.at - j.line) + 1, wrong);
    else if ((wrong = kaws__sources_judge(found, &part, &between)) != NULL)
        (void)snprintf(c->wrong, sizeof c->wrong, "%s.%s%s%s", j.inside,
                       want[part].name, between, wrong);
    return c->wrong;
}


static const char kaws__sources_form[] = "the file has to hold the access key "
    "id, the secret access key and, if there is one, the session token, each on"
    " its own line";


/* Finds the credentials in the conf file's text. If it is JSON, *form says what
 * has to be there. */
static const char *
kaws__sources_text(kaws__conf *c, uint8_t *text, size_t len,
                   kaws_bytes found[3], const char **form)
{
    kaws__json j = { .at = text, .end = text + len };

    if (kaws__json_peek(&j) != '{')
        return kaws__sources_parse(c, (kaws_bytes){ text, len }, found);
    *form = "JSON is read only as MySQL's keyring component has it: with an "
            "object aws_authentication of access_key_id and access_key_secret";
    return kaws__sources_json(c, text, len, found);
}


/* ---- the sources ------------------------------------------------------- */

/* After a refusal, the conf file is read only if it has changed, or if what was
 * refused were a role's credentials. */
static kaws_status
kaws__sources_file(kaws__sources *s, kaws__seek *seek, kaws_error *err)
{
    kaws_bytes all = { seek->text, 0 };
    const char *wrong, *form = kaws__sources_form;
    kaws__conf conf;
    kaws__stat st = { 0 };
    int fd = -1, same = 0, os;

    if (s->conf_file == NULL)
        return kaws__err_set(err, KAWS_CONFIG, "conf_file is not set: it names "
                             "the file with the AWS credentials");
    os = kaws__disk_open(s->conf_file, KAWS__READ_LINKED, &fd);
    if (os == 0 && (os = kaws__disk_stat(fd, NULL, &st)) == 0 && st.regular) {
        same = seek->refused && s->then == NULL &&
               st.mtime_ns == s->seen.mtime_ns &&
               st.size == s->seen.size && st.ino == s->seen.ino;
        if (!same)
            os = kaws__disk_read_at(fd, 0, seek->text, KAWS__SOURCES_TEXT_MAX,
                                    &all.len);
    }
    kaws__disk_close(fd);
    if (os != 0)
        return kaws__err_os(err, KAWS_CONFIG, os, "cannot read the conf file "
                            "%s", s->shown);
    if (same)
        return KAWS_OK;
    wrong = !st.regular ? "it is not a file"
          : all.len == KAWS__SOURCES_TEXT_MAX ? "it is longer than 6143 bytes"
          : all.len == 0 ? "it is empty"
          : kaws__sources_text(&conf, seek->text, all.len, seek->found, &form);
    if (*wrong != '\0')
        return kaws__err_set(err, KAWS_CONFIG, "the conf file %s: %s; %s",
                             s->shown, wrong, form);
    s->seen = st;
    if (!st.lent)
        kaws__err_others(s->hooks, "the conf file", s->shown, &st);
    return KAWS_OK;
}


/* seek->found then points into the memory of the program's hook. */
static kaws_status
kaws__sources_program(kaws__sources *s, kaws__seek *seek, kaws_error *err)
{
    kaws_creds_wanted w = { .refused = seek->refused,
                            .timeout_ms = seek->left_ms > 0 ? seek->left_ms : 1,
                            .cancelled = seek->cancel.asked,
                            .cancelled_arg = seek->cancel.arg };
    const int failed = s->hooks->creds(s->hooks->ctx, &w);
    const char *const given[] = { w.creds.id, w.creds.secret, w.creds.token };
    const char *wrong, *between;
    char date[17];
    int part;

    w.text[sizeof w.text - 1] = '\0';
    if (failed && kaws__thread_pause(s->hooks, &seek->cancel, 0))
        return kaws__err_cancelled(err, "the program's credentials");
    if (!failed || kaws__text_holds(kaws__buf_of(w.text), seek->secret[0]) ||
        kaws__text_holds(kaws__buf_of(w.text), seek->secret[1]))
        kaws_wipe(w.text, sizeof w.text);
    if (failed)
        return kaws__err_set(err, KAWS_CREDENTIALS, "the program %s gave no "
                             "credentials: %s", s->shown, w.text[0] == '\0'
                             ? "it gave no reason that may be shown"
                             : KAWS__QUOTE(kaws__buf_of(w.text)));
    for (part = 0; part < 3; part++)
        seek->found[part] = kaws__buf_of(given[part] != NULL ? given[part]
                                                             : "");
    wrong = kaws__sources_judge(seek->found, &part, &between);
    if (wrong != NULL)
        return kaws__err_set(err, KAWS_CREDENTIALS, "the program %s gave "
                             "credentials that cannot be used: the %s%s%s",
                             s->shown, kaws__sources_parts[part].called,
                             between, wrong);
    if (w.expires != 0 && *kaws_amz_date(date, w.expires) == '\0')
        return kaws__err_set(err, KAWS_CREDENTIALS, "the program %s gave "
                             "credentials that expire at no time in Unix "
                             "seconds", s->shown);
    seek->expires = w.expires;
    return KAWS_OK;
}


static const kaws__source kaws__sources_table[] = {
    { "the program", kaws__sources_program },     /* if hooks.creds is set    */
    { "the conf file", kaws__sources_file }
};                                /* for config.auth, see native_table        */


/* `conf_file` is borrowed for as long as the sources are used. */
static void
kaws__sources_open(kaws__sources *s, const kaws_hooks *hooks,
                   const char *conf_file)
{
    *s = (kaws__sources){ .hooks = hooks, .conf_file = conf_file };
    s->source = &kaws__sources_table[hooks->creds == NULL];
    (void)snprintf(s->shown, sizeof s->shown, "(hooks.creds)");
    if (hooks->creds == NULL)
        kaws_show(s->shown, sizeof s->shown, conf_file);
}


/* The last four characters of an access key id, by which people tell it from
 * others. If it does not look like one, it may be the secret on the wrong line,
 * and nothing of it is shown: `end` is then empty. Returns what a log says. */
static const char *
kaws__sources_end(kaws_bytes id, char end[5])
{
    size_t i = 0;

    end[0] = '\0';
    while (i < id.len && id.at[i] != '\0' &&
           strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", id.at[i]) != NULL)
        i++;
    if (i < id.len || i <= 4)
        return "(not shown)";
    (void)kaws__buf_copy_text(end, 5, (kaws_bytes){ id.at + i - 4, 4 });
    return end;
}


/* Has the source find credentials. On failure, or if AWS refused those in the
 * conf file and the file has not changed, seek->found[0] is empty. */
static kaws_status
kaws__sources_read(kaws__sources *s, kaws__seek *seek, kaws_error *err)
{
    int64_t begun_ms = 0, left;
    kaws_status status;

    if (s->then != NULL)
        begun_ms = s->hooks->ticks_ms(s->hooks->ctx);
    memset(seek->found, 0, sizeof seek->found);
    seek->expires = 0;
    seek->owner[0] = '\0';
    status = s->source->find(s, seek, err);
    if (status == KAWS_OK && s->then != NULL) {
        left = seek->left_ms + begun_ms - s->hooks->ticks_ms(s->hooks->ctx);
        if (left < seek->left_ms)         /* the clock may jump back          */
            seek->left_ms = left > 0 ? (int)left : 0;
        status = s->then(s, seek, err);
    }
    if (status != KAWS_OK)
        seek->found[0].len = 0;
    return status;
}


/* ==========================================================================
 * ROOM  reading  one reading of a source of credentials, and its memory
 * ==========================================================================
 * Uses: sys disk err mem buf text json sources
 * Gives: reading_begin reading_end reading_left_ms reading_load
 *        reading_load_token reading_keep reading_parts reading_take
 *        reading_belongs reading_environment
 *
 * A reading takes 133 KiB, in pages of its own. They are locked if the system
 * lets us lock so many, and wiped once the credentials have been copied out. A
 * reading may have several steps: a source gives credentials, with which a
 * role's are asked for. Each step puts what it found into `creds`, where the
 * next step looks for it.
 */

#define KAWS__READING_ROOM 65536  /* bytes of both files, or of a reply       */
#define KAWS__READING_LINE 24576  /* a header line, STS's form, a command     */
#define KAWS__READING_KEPT 32768  /* what is kept of a profile                */
#define KAWS__READING_ROLES    6  /* the config's, and 5 of profiles          */

typedef struct kaws__pages {
    char    creds[3][KAWS__SOURCES_TOKEN_MAX + 1];    /* id, secret, token    */
    uint8_t kept[KAWS__READING_KEPT], line[KAWS__READING_LINE];
    uint8_t room[KAWS__READING_ROOM];
} kaws__pages;

typedef struct kaws__reading {
    kaws__sources *s;
    kaws__seek    *seek;          /* NULL: what is configured is looked for   */
    kaws__pages   *pages;
    uint8_t       *line, *room;   /* in these pages                           */
    size_t         used, kept;    /* of the room, and of what is kept         */
    int64_t        begun_ms;      /* by hooks.ticks_ms                        */
    const char    *name, *shown;  /* what messages call the step's source     */
    int            asked;         /* this step asked somebody                 */
    int            again;         /* it may do better if it is tried again    */
    kaws__role     roles[KAWS__READING_ROLES];    /* the last one comes first */
    int            role_count;
} kaws__reading;


/* Gets the memory of a reading. 0: there is none. */
static int
kaws__reading_begin(kaws__reading *n, kaws__sources *s, kaws__seek *seek)
{
    *n = (kaws__reading){ .s = s, .seek = seek };
    n->name = s->source != NULL ? s->source->name : "";
    n->shown = s->shown;
    n->begun_ms = s->hooks->ticks_ms(s->hooks->ctx);
    n->pages = kaws__sys_alloc_locked(sizeof *n->pages);
    if (n->pages == NULL)
        return 0;
    n->line = n->pages->line;
    n->room = n->pages->room;
    if (s->role.arn != NULL)
        n->roles[n->role_count++] = s->role;
    return 1;
}


static void
kaws__reading_end(kaws__reading *n)
{
    kaws_wipe(n->pages, sizeof *n->pages);
    kaws__sys_free_locked(n->pages, sizeof *n->pages);
}


/* What is left of the caller's time. */
static int
kaws__reading_left_ms(const kaws__reading *n)
{
    const kaws_hooks *const hooks = n->s->hooks;
    const int64_t took = hooks->ticks_ms(hooks->ctx) - n->begun_ms;
    const int64_t left = n->seek->left_ms - (took > 0 ? took : 0);

    return left > 0 ? (int)left : 0;
}


/* Reads a file into the free part of the room. Returns 0 or an errno. */
static int
kaws__reading_load(kaws__reading *n, const char *path, kaws_bytes *text,
                   kaws__stat *st)
{
    uint8_t *const at = n->room + n->used;
    int fd = -1, os;

    *text = (kaws_bytes){ at, 0 };
    memset(st, 0, sizeof *st);
    os = kaws__disk_open(path, KAWS__READ_LINKED, &fd);
    if (os == 0 && (os = kaws__disk_stat(fd, NULL, st)) == 0 && st->regular)
        os = kaws__disk_read_at(fd, 0, at, KAWS__READING_ROOM - n->used,
                                &text->len);
    kaws__disk_close(fd);
    n->used += text->len;
    return os;
}


/* Reads a token file, and warns if others may write to it: they could choose
 * the identity. Who may read it, and whose it is, is for the cluster to say. */
static int
kaws__reading_load_token(kaws__reading *n, const char *path, kaws_bytes *token)
{
    kaws__stat st;
    int os = kaws__reading_load(n, path, token, &st);

    if (os == 0 && st.others_write)
        kaws__err_log(n->s->hooks, KAWS__LOG_MODE, "the token file",
                      KAWS__SHOW(kaws__buf_of(path)), "written", "600");
    return os;
}


/* Copies a text to where the reading's next steps still find it. NULL: the text
 * is empty, or there is no room. */
static const char *
kaws__reading_keep(kaws__reading *n, kaws_bytes text)
{
    char *const at = (char *)n->pages->kept + n->kept;

    if (text.len == 0 || text.len >= KAWS__READING_KEPT - n->kept)
        return NULL;
    (void)kaws__buf_copy_text(at, text.len + 1, text);
    n->kept += text.len + 1;
    return at;
}


/* ---- credentials --------------------------------------------------------- */

/* What AWS STS, and a program, call id, secret and token. */
static const char *const kaws__reading_names[] = { "AccessKeyId",
                                                   "SecretAccessKey",
                                                   "SessionToken" };


/* Takes over id, secret, token and expiry, as a reply has them. Returns NULL,
 * or what is wrong. */
static const char *
kaws__reading_parts(kaws__reading *n, const kaws__member want[4], int expire)
{
    int i;

    n->seek->expires = 0;
    if (expire || want[3].value.at != NULL) {
        n->seek->expires = kaws__text_iso_date(want[3].value);
        if (n->seek->expires <= 0)
            return "its Expiration is not a date";
    }
    for (i = 0; i < 3; i++)
        n->seek->found[i] = want[i].value;
    return NULL;
}


/* Checks what a step found, and copies it to where the next step, or the
 * caller, looks for it. `parts` are the names that the source has for id,
 * secret and token. */
static kaws_status
kaws__reading_take(kaws__reading *n, const char *const parts[3],
                   kaws_error *err)
{
    kaws_bytes *const found = n->seek->found;
    const char *wrong, *between;
    int part;

    wrong = kaws__sources_judge(found, &part, &between);
    if (wrong != NULL)
        return kaws__err_set(err, n->asked ? KAWS_CREDENTIALS : KAWS_CONFIG,
                             "%s %s: %s%s%s", n->name, n->shown, parts[part],
                             between, wrong);
    for (part = 0; part < 3; part++) {
        char *const to = n->pages->creds[part];
        (void)kaws__buf_copy_text(to, KAWS__SOURCES_TOKEN_MAX + 1, found[part]);
        found[part] = kaws__buf_of(to);
    }
    return KAWS_OK;
}


/* Remembers for a log whose the credentials are: "account " and its number, or
 * the ARN of a role. Nothing is remembered if it is not told, cannot be one, or
 * holds a piece of what was found. Call it after that, and before
 * kaws__reading_take. */
static void
kaws__reading_belongs(kaws__reading *n, const char *what, kaws_bytes whose)
{
    kaws__seek *const seek = n->seek;
    const size_t i = kaws__text_span(whose, ":/_+=,.@-");

    seek->owner[0] = '\0';
    if (i > 0 && i == whose.len && strlen(what) + i < sizeof seek->owner &&
        !kaws__text_holds(whose, seek->found[1]) &&
        !kaws__text_holds(whose, seek->found[KAWS__TOKEN]))
        (void)snprintf(seek->owner, sizeof seek->owner, "%s%.*s", what, (int)i,
                       (const char *)whose.at);
}


/* The source: the environment. A variable that is empty counts as not set. */
static kaws_status
kaws__reading_environment(kaws__reading *n, kaws_error *err)
{
    static const char *const names[] = {
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN"              /* its older name                   */
    };
    const char *const account = kaws__sys_own_env("AWS_ACCOUNT_ID");
    const char *value;
    int i;

    for (i = 3; i >= 0; i--)
        if ((value = kaws__sys_own_env(names[i])) != NULL)
            n->seek->found[i < 3 ? i : KAWS__TOKEN] = kaws__buf_of(value);
    kaws__reading_belongs(n, "account ",
                          kaws__buf_of(account != NULL ? account : ""));
    return kaws__reading_take(n, names, err);
}


/* ==========================================================================
 * ROOM  remote   the sources that are asked over HTTP
 * ==========================================================================
 * Uses: sys thread err buf text json url http sources reading
 * Gives: remote_leak_in remote_ask remote_container remote_instance
 *        remote_container_url remote_instance_off
 *
 * A request may tell a secret to the host that answers, so remote_url_wrong
 * says which hosts may be asked. Container and instance answer with JSON; room
 * sts asks AWS STS through this room, too.
 */

#define KAWS__REMOTE_URL   1024
#define KAWS__REMOTE_MS    1000   /* to connect; in all 2 of these, for STS 5 */

typedef struct kaws__asked {      /* a request over HTTP                      */
    const char *method;
    const char *headers[6];       /* lines, NULL at the end                   */
    kaws_bytes  body;             /* a form for AWS STS; or empty             */
    kaws_bytes  secret[2];        /* in headers or body: no error may have    */
    const char *hint;             /* what to do if it fails                   */
    int         hide;             /* 1: its path is a secret                  */
    char        url[KAWS__REMOTE_URL];
} kaws__asked;

static const char *const kaws__remote_parts[] = { "AccessKeyId",
                                                  "SecretAccessKey", "Token" };


/* Returns NULL, or why no secret may be asked for at that URL. The host must be
 * this machine, or an address that AWS keeps for this and that is reached
 * without leaving the machine. Hosts are compared whole. `tls`: https may go to
 * any host. */
static const char *
kaws__remote_url_wrong(const char *url, int tls)
{
    static const char *const places[] = {
        "localhost", "[::1]", "169.254.170.2", "169.254.170.23",
        "169.254.169.254", "[fd00:ec2::23]", "[fd00:ec2::254]"
    };
    kaws_bytes host = kaws__url_origin(url);
    const int secure = strncmp(url, "https://", 8) == 0;
    const size_t scheme = secure ? 8 : 7;
    uint32_t byte;
    size_t i, n;

    for (i = 0; url[i] > ' ' && url[i] <= '~' && strchr("@\\#", url[i]) == NULL;
         i++)
        continue;
    if (url[i] != '\0' || i >= KAWS__REMOTE_URL ||
        (!secure && strncmp(url, "http://", 7) != 0) ||
        strchr("/", url[host.len]) == NULL)
        return "it is not of the form http://host:port/path";
    host.at += scheme;
    host.len -= scheme;
    if (host.len > 150 || !kaws__url_host_ok(host))
        return "its host is malformed";
    n = *host.at != '[' ? strcspn((const char *)host.at, ":/")
                        : strcspn((const char *)host.at, "]") + 1;
    host.len = n < host.len ? n : host.len;
    for (i = 0; i < sizeof places / sizeof places[0]; i++)
        if ((secure && tls) || kaws__text_alike(host, places[i]))
            return NULL;
    for (i = 0; i < 4; i++) {             /* 127.0.0.0/8                      */
        for (n = 0; n < host.len && host.at[n] != '.'; n++)
            continue;
        if (!kaws__text_number((kaws_bytes){ host.at, n }, 255, &byte) ||
            (i == 0 && byte != 127) || (n > 1 && *host.at == '0') ||
            (n < host.len) != (i < 3))
            break;
        host.at += n + (n < host.len);
        host.len -= n + (n < host.len);
    }
    return i == 4 ? NULL : "its host is neither this machine nor an address "
                           "that AWS keeps for credentials";
}


/* What of the URL a message may show. */
static kaws_bytes
kaws__remote_seen(const kaws__asked *a)
{
    return a->hide ? kaws__url_origin(a->url) : kaws__buf_of(a->url);
}


/* Whether the text holds a piece of what the request keeps secret. */
static int
kaws__remote_leak_in(const kaws__asked *a, kaws_bytes text)
{
    return kaws__text_holds(text, a->secret[0]) ||
           kaws__text_holds(text, a->secret[1]);
}


/* Sends one request, with a connection of its own. OK: there is a reply. */
static kaws_status
kaws__remote_ask(kaws__reading *n, const kaws__asked *a, kaws_reply *r,
                 kaws_error *err)
{
    const kaws__seek *seek = n->seek;
    const int form = a->body.len > 0, left = kaws__reading_left_ms(n);
    kaws_request q = { .url = a->url, .method = a->method, .direct = !form,
                       .headers = a->headers, .body = a->body,
                       .connect_timeout_ms = (form ? 5 : 1) * KAWS__REMOTE_MS,
                       .timeout_ms = (form ? 5 : 2) * KAWS__REMOTE_MS,
                       .fresh_connection = 1,
                       .cancelled = seek->cancel.asked,
                       .cancelled_arg = seek->cancel.arg };
    kaws_bytes words;
    void *lent = NULL;
    kaws_status status;

    if (left < q.timeout_ms)
        q.timeout_ms = left > 1 ? left : 1;
    *r = (kaws_reply){ .body = n->room, .body_max = KAWS__READING_ROOM };
    n->asked = 1;
    status = kaws__http_send(seek->http, &q, r, &lent);
    kaws__http_done(seek->http, lent, 0);
    if (status == KAWS_OK)
        return KAWS_OK;
    if (status == KAWS_CANCELLED ||
        kaws__thread_pause(n->s->hooks, &seek->cancel, 0))
        return kaws__err_cancelled(err, "AWS credentials");
    words = kaws__buf_of(r->text);
    if (kaws__remote_leak_in(a, words))
        words.len = 0;
    if (status == KAWS_REPLY)
        words = kaws__buf_of("its reply answers another request");
    return kaws__err_set(err, status == KAWS_CONFIG ? status : KAWS_NETWORK,
                         "cannot %s %s at %s for AWS credentials: %s%s",
                         status == KAWS_NETWORK ? "reach" : "ask",
                         form ? "AWS STS" : n->name,
                         KAWS__SHOW(kaws__remote_seen(a)), KAWS__QUOTE(words),
                         a->hint);
}


/* The same, for a reply of 200. */
static kaws_status
kaws__remote_get(kaws__reading *n, const kaws__asked *a, kaws_reply *r,
                 kaws_error *err)
{
    kaws_status status = kaws__remote_ask(n, a, r, err);

    if (status == KAWS_OK && r->http == 200 && r->body_len > r->body_max)
        status = kaws__err_set(err, KAWS_CREDENTIALS, "the reply of %s at %s "
                               "is longer than 65536 bytes", n->name,
                               KAWS__SHOW(kaws__remote_seen(a)));
    else if (status == KAWS_OK && r->http != 200)
        status = kaws__err_set(err, r->http >= 500 || r->http == 429
                               ? KAWS_SERVICE : KAWS_CREDENTIALS, "%s at %s "
                               "gave no AWS credentials (HTTP %d)%s", n->name,
                               KAWS__SHOW(kaws__remote_seen(a)), r->http,
                               r->http >= 500 ? "" : a->hint);
    return status;
}


/* Gets the JSON that container and instance give, and reads it. */
static kaws_status
kaws__remote_json(kaws__reading *n, const kaws__asked *a, kaws_error *err)
{
    kaws__member want[] = { { .name = "AccessKeyId" },
                            { .name = "SecretAccessKey" },
                            { .name = "Token", .kind = KAWS__OR_NULL },
                            { .name = "Expiration" }, { .name = "Code" },
                            { .name = "RoleArn", .kind = KAWS__IF_STRING },
                            { .name = "AccountId", .kind = KAWS__IF_STRING } };
    const char *wrong;
    char code[64] = "";
    size_t offset;
    kaws_reply r;
    kaws_status status = kaws__remote_get(n, a, &r, err);

    if (status != KAWS_OK)
        return status;
    wrong = kaws__json_read(r.body, r.body_len, want, 7, &offset);
    if (wrong == NULL && want[4].value.at != NULL &&
        !kaws__buf_same(want[4].value, kaws__buf_of("Success"))) {
        wrong = "its Code is not Success: may the service assume the role? It "
                "is ";
        if (!kaws__remote_leak_in(a, want[4].value) &&
            !kaws__text_holds(want[4].value, want[1].value) &&
            !kaws__text_holds(want[4].value, want[2].value))
            kaws__text_quote(code, sizeof code, want[4].value);
    } else if (wrong == NULL) {
        wrong = kaws__reading_parts(n, want, 1);
    }
    if (wrong != NULL)
        return kaws__err_set(err, KAWS_CREDENTIALS, "the reply of %s at %s has "
                             "no AWS credentials: %s%s", n->name,
                             KAWS__SHOW(kaws__remote_seen(a)), wrong, code);
    if (want[5].value.len > 0)
        kaws__reading_belongs(n, "", want[5].value);
    else if (want[6].value.len > 0)
        kaws__reading_belongs(n, "account ", want[6].value);
    return kaws__reading_take(n, kaws__remote_parts, err);
}


/* Writes a header line whose value is a secret. Line ends behind the value are
 * dropped; none may be in it. 0: it cannot be a header. */
static int
kaws__remote_header(kaws__reading *n, kaws__asked *a, const char *name,
                    kaws_bytes value)
{
    char *const line = (char *)n->line;
    size_t at = strlen(name), i = 0;

    while (value.len > 0 && memchr(" \r\n", value.at[value.len - 1], 3) != NULL)
        value.len--;
    while (i < value.len && value.at[i] >= ' ' && value.at[i] <= '~')
        i++;
    if (i == 0 || i < value.len || at + value.len >= KAWS__READING_LINE)
        return 0;
    memcpy(line, name, at);
    memmove(line + at, value.at, value.len);
    line[at + value.len] = '\0';
    a->headers[1] = line;
    a->secret[0] = kaws__buf_of(line + at);
    return 1;
}


/* ---- the container: ECS, EKS Pod Identity, Greengrass -------------------- */

/* The variable that has its URL; NULL: none. *value is what it has. */
static const char *
kaws__remote_container_url(const char **value)
{
    static const char *const names[] = {
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    };
    int i = (*value = kaws__sys_own_env(names[0])) == NULL;

    if (i)
        *value = kaws__sys_own_env(names[1]);
    return *value != NULL ? names[i] : NULL;
}


/* What the token file holds now, or the variable. */
static kaws_status
kaws__remote_token(kaws__reading *n, kaws__asked *a, kaws_error *err)
{
    const char *path = kaws__sys_own_env("AWS_CONTAINER_AUTHORIZATION_TOKEN_"
                                         "FILE");
    const char *plain = kaws__sys_own_env("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    const char *const shown = path != NULL ? KAWS__SHOW(kaws__buf_of(path))
                                           : "AWS_CONTAINER_AUTHORIZATION_"
                                             "TOKEN";
    kaws_bytes token = kaws__buf_of(plain != NULL ? plain : "");
    int os = path != NULL ? kaws__reading_load_token(n, path, &token) : 0;

    if (os != 0)
        return kaws__err_os(err, KAWS_CREDENTIALS, os, "cannot read the token "
                            "file %s, which the container's credentials take",
                            shown);
    if (path == NULL && plain == NULL)
        return KAWS_OK;
    if (!kaws__remote_header(n, a, "Authorization: ", token))
        return kaws__err_set(err, KAWS_CREDENTIALS, "what %s holds cannot be "
                             "the token for the container's credentials: it is "
                             "empty, not one line of ASCII, or longer than "
                             "24560 bytes", shown);
    return KAWS_OK;
}


/* The source: the container. On ECS anyone who knows the path gets the task's
 * credentials, so no message shows it. */
static kaws_status
kaws__remote_container(kaws__reading *n, kaws_error *err)
{
    const char *value, *const name = kaws__remote_container_url(&value);
    kaws__asked a = { .method = "GET", .hide = 1,
                      .headers = { "Accept: application/json" },
                      .hint = "; is the container's agent up, and may this "
                      "container use the role?" };
    const char *wrong, *host = "";
    kaws_status status;

    if (name == NULL)
        return kaws__err_set(err, KAWS_CONFIG, "%s is not configured: neither "
                             "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI nor "
                             "AWS_CONTAINER_CREDENTIALS_FULL_URI is set",
                             n->name);
    if (strstr(name, "RELATIVE") != NULL)
        host = *value == '/' ? "http://169.254.170.2" : "http://169.254.170.2?";
    wrong = snprintf(a.url, sizeof a.url, "%s%s", host, value) >=
            (int)sizeof a.url ? "it is too long"
                              : kaws__remote_url_wrong(a.url, 1);
    if (wrong != NULL)
        return kaws__err_set(err, KAWS_CONFIG, "%s (%s) has a URL that cannot "
                             "be used: %s", n->name, name, wrong);
    status = kaws__remote_token(n, &a, err);
    return status == KAWS_OK ? kaws__remote_json(n, &a, err) : status;
}


/* ---- the instance: EC2's metadata, version 2 only ------------------------ */

/* Gets the role's name from the environment, or from the first line of the list
 * that the instance gives. It may hold only what IAM allows in a name. */
static kaws_status
kaws__remote_role(kaws__reading *n, kaws__asked *a, char role[129],
                  kaws_error *err)
{
    const char *name = kaws__sys_own_env("AWS_EC2_INSTANCE_PROFILE_NAME");
    kaws_bytes first = kaws__buf_of(name != NULL ? name : "");
    kaws_reply r;
    kaws_status status = KAWS_OK;
    size_t i;

    if (name == NULL) {
        status = kaws__remote_get(n, a, &r, err);
        first = (kaws_bytes){ r.body, r.body_len };
    }
    if (status != KAWS_OK && r.http == 404)
        return kaws__err_set(err, KAWS_CREDENTIALS, "this EC2 instance has no "
                             "role: attach an instance profile");
    if (status != KAWS_OK)
        return status;
    i = kaws__text_span(first, "_+=,.@-");
    if (i == 0 || (i < first.len && first.at[i] != '\n' &&
                   first.at[i] != '\r') ||
        !kaws__buf_copy_text(role, 129, (kaws_bytes){ first.at, i }))
        return kaws__err_set(err, KAWS_CREDENTIALS, "%s gave no name of a role",
                             name != NULL ? "AWS_EC2_INSTANCE_PROFILE_NAME"
                                          : "the instance");
    kaws__reading_belongs(n, "the instance's role ", kaws__buf_of(role));
    return KAWS_OK;
}


/* Where the instance answers; *len is the length without a slash at the end.
 * Returns NULL, or what is wrong. */
static const char *
kaws__remote_base(const char **base, int *len)
{
    const char *mode = kaws__sys_own_env("AWS_EC2_METADATA_SERVICE_ENDPOINT_"
                                         "MODE");

    *base = kaws__sys_own_env("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    if (*base == NULL)
        *base = mode != NULL && kaws__text_alike(kaws__buf_of(mode), "ipv6")
              ? "http://[fd00:ec2::254]" : "http://169.254.169.254";
    *len = (int)strlen(*base);
    *len -= *len > 0 && (*base)[*len - 1] == '/';
    return *len > 200 ? "it is too long" : kaws__remote_url_wrong(*base, 0);
}


/* Anyone who switched the instance off meant it, even with more rights. */
static int
kaws__remote_instance_off(void)
{
    const char *off = kaws__sys_env("AWS_EC2_METADATA_DISABLED");

    return off != NULL && kaws__text_alike(kaws__buf_of(off), "true");
}


/* The source: the instance. A token is fetched for each reading, so none is
 * ever stale. In a container the reply with the token is lost, if the
 * instance's hop limit is 1. */
static kaws_status
kaws__remote_instance(kaws__reading *n, kaws_error *err)
{
    static const char path[] = "/latest/meta-data/iam/security-credentials/";
    kaws__asked a = { .method = "PUT", .headers = { "Accept: application/json",
                      "x-aws-ec2-metadata-token-ttl-seconds: 60" },
                      .hint = "; is this an EC2 instance? In a container on "
                      "one, its hop limit has to be 2" };
    const char *wrong, *base;
    char role[129] = "";
    kaws_reply r;
    kaws_status status;
    int len;

    if (kaws__remote_instance_off())
        return kaws__err_set(err, KAWS_CONFIG, "%s is not asked, because "
                             "AWS_EC2_METADATA_DISABLED is true", n->name);
    if ((wrong = kaws__remote_base(&base, &len)) != NULL)
        return kaws__err_set(err, KAWS_CONFIG, "AWS_EC2_METADATA_SERVICE_"
                             "ENDPOINT cannot be used: %s", wrong);
    (void)snprintf(a.url, sizeof a.url, "%.*s/latest/api/token", len, base);
    if ((status = kaws__remote_get(n, &a, &r, err)) != KAWS_OK)
        return status;
    if (!kaws__remote_header(n, &a, "x-aws-ec2-metadata-token: ",
                             (kaws_bytes){ r.body, r.body_len }))
        return kaws__err_set(err, KAWS_CREDENTIALS, "the instance gave a token "
                             "that cannot be one");
    a.method = "GET";
    a.hint = "";
    /* A hook may have freed `base` meanwhile; the URL has what was checked. */
    (void)snprintf(a.url + len, sizeof a.url - (size_t)len, "%s", path);
    status = kaws__remote_role(n, &a, role, err);
    (void)snprintf(a.url + len, sizeof a.url - (size_t)len, "%s%s", path, role);
    return status == KAWS_OK ? kaws__remote_json(n, &a, err) : status;
}


/* ==========================================================================
 * ROOM  sts      AWS STS gives the credentials of a role
 * ==========================================================================
 * Uses: sys thread err buf text json xml sigv4 url hosts sources reading
 *        remote
 * Gives: sts_role_wrong sts_follow
 *
 * AssumeRole takes a signature, made with the credentials that the reading has
 * found so far. AssumeRoleWithWebIdentity takes a token from a file in its
 * place. So roles can follow each other; all but the first need a signature.
 */

#define KAWS__STS_FORM  16384     /* of the line: the form; then headers      */
#define KAWS__STS_TOKEN 20000     /* bytes of a web identity's token          */
#define KAWS__STS_TRIES     3


/* Are these `least` to `most` letters, digits, or `others`? NULL is fine. */
static int
kaws__sts_word(const char *text, size_t least, size_t most, const char *others)
{
    const kaws_bytes all = kaws__buf_of(text != NULL ? text : "");

    return text == NULL || (all.len >= least && all.len <= most &&
                            kaws__text_span(all, others) == all.len);
}


/* Returns NULL, or what STS would not take. */
static const char *
kaws__sts_role_wrong(const kaws__role *role)
{
    const int aws = strncmp(role->arn, "arn:aws", 7) == 0;
    const char *at = role->arn + (aws ? 7 : 0);
    const size_t more = strspn(at, "-abcdefghijklmnopqrstuvwxyz");

    at += more;
    if (!aws || more > 16 || strncmp(at, ":iam::", 6) != 0 ||
        strspn(at + 6, "0123456789") != 12 ||
        strncmp(at + 18, ":role/", 6) != 0 ||
        !kaws__sts_word(at + 24, 1, 576, "+=,.@_/-"))
        return "the ARN of the role is not of the form "
               "arn:aws:iam::111122223333:role/NAME";
    if (!kaws__sts_word(role->session, 2, 64, "_+=,.@-"))
        return "the role's session name must have 2 to 64 letters, digits and "
               "_+=,.@-";
    if (!kaws__sts_word(role->external_id, 2, 1224, "_+=,.@:/-"))
        return "the role's external id must have 2 to 1224 letters, digits and "
               "_+=,.@:/-";
    return NULL;
}


/* ---- what STS answers ---------------------------------------------------- */

/* What an error of STS means, by the beginning of its code. The last rows are
 * for all others: "(none)" if the reply names no error, "(5xx)" if STS failed.
 * `again`: another attempt may do better. */
static const struct {
    const char *code;
    kaws_status status;
    int         again;
    const char *hint;
} kaws__sts_faults[] = {
    { "ExpiredToken", KAWS_CREDENTIALS, 0, "the token has expired: is it still "
      "renewed where it comes from?" },
    { "InvalidIdentityToken", KAWS_CREDENTIALS, 1, "does IAM know the provider "
      "of the token, and is the token meant for sts.amazonaws.com?" },
    { "IDPCommunicationError", KAWS_SERVICE, 1, "AWS cannot reach the provider "
      "of the token" },
    { "Throttl", KAWS_SERVICE, 1, "it is asked too often" },
    { "SlowDown", KAWS_SERVICE, 1, "it is asked too often" },
    { "RegionDisabled", KAWS_CREDENTIALS, 0, "switch AWS STS on in this "
      "region" },
    { "InvalidClientTokenId", KAWS_CREDENTIALS, 0, "AWS does not know the "
      "access key that asked: is it deleted, switched off, or short of its "
      "session token?" },
    { "SignatureDoesNotMatch", KAWS_CREDENTIALS, 0, "check the secret access "
      "key that asked, this machine's clock, and that sts_endpoint, if it is "
      "set, is in the region of the KMS key" },
    { "ValidationError", KAWS_CREDENTIALS, 0, "check the role's ARN, and its "
      "duration: 3600 is the most if one role assumes another" },
    { "RequestLimitExceeded", KAWS_SERVICE, 1, "it is asked too often" },
    { "OptInRequired", KAWS_CREDENTIALS, 0, "enable the region for the "
      "account" },
    { "RequestExpired", KAWS_CREDENTIALS, 0, "check this machine's clock" },
    { "(none)", KAWS_CREDENTIALS, 0, "is that AWS STS? Check the endpoint and "
      "the proxy" },
    { "(5xx)", KAWS_SERVICE, 1, "AWS STS has failed, and may recover" },
    { "", KAWS_CREDENTIALS, 0, "may this identity assume the role? See the "
      "role's trust policy, and its external id" }
};


/* Writes who asked STS, for a message: the role before, or an access key. */
static const char *
kaws__sts_caller(const kaws__reading *n, const kaws__role *role, char out[224])
{
    char end[5];

    if (role->token_file != NULL)
        return "";
    if (n->seek->owner[0] != '\0')
        (void)snprintf(out, 224, " to %s", n->seek->owner);
    else
        (void)snprintf(out, 224, " to the access key whose id ends in %s",
                       kaws__sources_end(n->seek->found[0], end));
    return out;
}


/* The row for that code. */
static size_t
kaws__sts_fault(const char *code)
{
    size_t i = 0;

    while (strncmp(code, kaws__sts_faults[i].code,
                   strlen(kaws__sts_faults[i].code)) != 0)
        i++;
    return i;
}


/* STS refused. If our clock may be why, we take over the time that the reply
 * has, and sign again. */
static kaws_status
kaws__sts_refused(kaws__reading *n, const kaws__asked *a,
                  const kaws__role *role, kaws_reply *r, kaws_error *err)
{
    kaws__member want = { .name = "Error/Code" };
    char code[64] = "", caller[224];
    const int64_t wrong_s = r->date - n->seek->now;
    const int failed = r->http >= 500 || r->http == 429;
    size_t offset, i;

    if (kaws__xml_read(r->body, r->body_len, &want, 1, &offset) != NULL ||
        !kaws__buf_copy_text(code, sizeof code, want.value) ||
        kaws__remote_leak_in(a, want.value))
        code[0] = '\0';
    if (kaws__remote_leak_in(a, kaws__buf_of(r->request_id)))
        r->request_id[0] = '\0';
    i = kaws__sts_fault(code[0] != '\0' ? code : "(none)");
    if (kaws__sts_faults[i].code[0] == '\0' && failed)
        i = kaws__sts_fault("(5xx)");
    n->again = kaws__sts_faults[i].again || failed;
    if (role->token_file == NULL && r->http == 403 &&
        r->date > 1577836800 && r->date < 4102444800 &&   /* 2020 to 2099     */
        (wrong_s > 240 || wrong_s < -240)) {
        n->seek->now = r->date;
        n->again = 1;
    }
    err->http = r->http;
    (void)snprintf(err->request_id, sizeof err->request_id, "%s",
                   r->request_id);
    (void)kaws__text_quote(err->aws, sizeof err->aws, kaws__buf_of(code));
    return kaws__err_set(err, failed ? KAWS_SERVICE
                         : kaws__sts_faults[i].status, "AWS STS at %s refused "
                         "credentials for the role %s%s (%s, HTTP %d, request "
                         "id %s); %s", KAWS__SHOW(kaws__buf_of(a->url)),
                         KAWS__SHOW(kaws__buf_of(role->arn)),
                         kaws__sts_caller(n, role, caller),
                         code[0] != '\0' ? err->aws : "no error type", r->http,
                         r->request_id[0] != '\0' ? r->request_id : "none",
                         kaws__sts_faults[i].hint);
}


/* Sends what was written for STS, and reads the credentials. */
static kaws_status
kaws__sts_send(kaws__reading *n, kaws__asked *a, const kaws__role *role,
               kaws_error *err)
{
    kaws__member want[] = { { .name = "Credentials/AccessKeyId" },
                            { .name = "Credentials/SecretAccessKey" },
                            { .name = "Credentials/SessionToken" },
                            { .name = "Credentials/Expiration" },
                            { .name = "AssumedRoleUser/Arn" } };
    const int64_t begun_us = kaws__sys_ticks_us();
    const char *wrong = NULL;
    size_t offset = 0;
    kaws_reply r;
    kaws_status status;

    status = kaws__remote_ask(n, a, &r, err);
    n->again = status == KAWS_NETWORK &&
               kaws__sys_ticks_us() - begun_us < KAWS__REMOTE_MS * 1000;
    if (status != KAWS_OK)
        return status;
    if (r.body_len > r.body_max)
        wrong = "it is longer than 65536 bytes";
    else if (r.http != 200)
        return kaws__sts_refused(n, a, role, &r, err);
    if (wrong == NULL)
        wrong = kaws__xml_read(r.body, r.body_len, want, 5, &offset);
    if (wrong == NULL)
        wrong = kaws__reading_parts(n, want, 1);
    if (wrong != NULL)
        return kaws__err_set(err, KAWS_CREDENTIALS, "the reply of AWS STS at %s"
                             " has no credentials: %s, at byte %s",
                             KAWS__SHOW(kaws__buf_of(a->url)), wrong,
                             KAWS__DECIMAL(offset));
    kaws__reading_belongs(n, "", want[4].value.len > 0 ? want[4].value
                                 : kaws__buf_of(role->arn));
    n->name = "the reply of AWS STS for";
    n->shown = KAWS__SHOW(kaws__buf_of(role->arn));
    status = kaws__reading_take(n, kaws__reading_names, err);
    n->shown = n->s->shown;
    return status;
}


/* ---- what STS is asked --------------------------------------------------- */

static void
kaws__sts_add(kaws__buf *form, const char *name, kaws_bytes value)
{
    kaws__buf_text(form, "&", name, "=");
    kaws__text_percent(form, value, kaws__sigv4_unreserved);
}


/* Begins the form of an action, in the line. The request goes to the region
 * that the KMS key is in now. */
static kaws__buf
kaws__sts_form(kaws__reading *n, kaws__asked *a, const char *action,
               const kaws__role *role, size_t room)
{
    kaws__buf form = kaws__buf_fixed(n->line, room);
    char seconds[16];

    kaws__hosts_doubt(&n->s->hosts, n->s->hooks, "sts", n->seek->region);
    kaws__hosts_url(&n->s->hosts, a->url, sizeof a->url, "sts",
                    n->seek->region, 1);
    kaws__buf_text(&form, "Action=", action, "&Version=2011-06-15");
    kaws__sts_add(&form, "RoleArn", kaws__buf_of(role->arn));
    kaws__sts_add(&form, "RoleSessionName",
                  kaws__buf_of(role->session != NULL ? role->session
                                                     : "keyring_aws"));
    (void)snprintf(seconds, sizeof seconds, "%d", role->seconds);
    if (role->seconds > 0)
        kaws__sts_add(&form, "DurationSeconds", kaws__buf_of(seconds));
    return form;
}


static const char kaws__sts_type[] = "Content-Type: application/x-www-form-"
                                     "urlencoded; charset=utf-8";


/* The token takes the place of a signature. It is read for each exchange, since
 * it is renewed in its file. */
static kaws_status
kaws__sts_web(kaws__reading *n, const kaws__role *role, kaws_error *err)
{
    const char *const shown = KAWS__SHOW(kaws__buf_of(role->token_file));
    kaws__asked a = { .headers = { kaws__sts_type }, .hint = "" };
    kaws_bytes token = { NULL, 0 };
    kaws__buf form;
    size_t front;
    int os;

    n->used = 0;                          /* what was there is not needed now */
    os = kaws__reading_load_token(n, role->token_file, &token);
    while (token.len > 0 && token.at[token.len - 1] <= ' ')
        token.len--;
    form = kaws__sts_form(n, &a, "AssumeRoleWithWebIdentity", role,
                          KAWS__READING_LINE);
    kaws__sts_add(&form, "WebIdentityToken", (kaws_bytes){ NULL, 0 });
    front = form.len;
    kaws__text_percent(&form, token, kaws__sigv4_unreserved);
    if (os != 0)
        return kaws__err_os(err, KAWS_CREDENTIALS, os, "cannot read the token "
                            "file %s of the web identity", shown);
    n->again = token.len < 4;             /* it may be being written          */
    if (token.len < 4 || token.len > KAWS__STS_TOKEN || form.failed)
        return kaws__err_set(err, KAWS_CREDENTIALS, "the token file %s of the "
                             "web identity does not hold 4 to 20000 bytes",
                             shown);
    a.body = kaws__buf_view(&form);
    a.secret[0] = (kaws_bytes){ a.body.at + front, a.body.len - front };
    return kaws__sts_send(n, &a, role, err);
}


/* Signs with the credentials that the reading has found so far. */
static kaws_status
kaws__sts_assume(kaws__reading *n, const kaws__role *role, kaws_error *err)
{
    static const char name[] = "Authorization: ";
    char *const lines = (char *)n->line + KAWS__STS_FORM;
    char *const token = lines + 2048, host[KAWS__URL_MAX + 8], when[32];
    char date[17];
    kaws__asked a = { .headers = { host, kaws__sts_type, when }, .hint = "" };
    kaws__buf form = kaws__sts_form(n, &a, "AssumeRole", role, KAWS__STS_FORM);
    const char *const at = strstr(a.url, "//") + 2;
    kaws_signing what = { .method = "POST", .path = "/", .service = "sts",
                          .region = n->seek->region, .headers = a.headers,
                          .when = n->seek->now };
    kaws_creds who = { n->pages->creds[0], n->pages->creds[1],
                       n->pages->creds[KAWS__TOKEN] };
    const int has_token = *who.token != '\0';
    kaws_status status;

    if (role->external_id != NULL)
        kaws__sts_add(&form, "ExternalId", kaws__buf_of(role->external_id));
    (void)snprintf(host, sizeof host, "Host: %.*s", (int)strcspn(at, "/"), at);
    (void)snprintf(when, sizeof when, "X-Amz-Date: %s",
                   kaws_amz_date(date, what.when));
    (void)snprintf(token, KAWS__SOURCES_TOKEN_MAX + 32,
                   "X-Amz-Security-Token: %s", who.token);
    a.headers[3] = has_token ? token : NULL;
    what.body = a.body = kaws__buf_view(&form);
    memcpy(lines, name, sizeof name);
    status = kaws_sign(&what, who, lines + sizeof name - 1,
                       2048 - sizeof name, err);
    if (status != KAWS_OK)
        return status;
    a.headers[3 + has_token] = lines;
    a.secret[0] = kaws__buf_of(who.token);
    a.secret[1] = kaws__buf_of(strstr(lines, "Signature=") +
                               strlen("Signature="));
    return kaws__sts_send(n, &a, role, err);
}


/* Has STS give the credentials of a role, in a few attempts if the next may do
 * better. */
static kaws_status
kaws__sts_role(kaws__reading *n, const kaws__role *role, kaws_error *err)
{
    const int pause_ms = 250;
    kaws_status status;
    int attempt = 1;

    for (;; attempt++) {
        n->again = 0;
        status = role->token_file != NULL ? kaws__sts_web(n, role, err)
                                          : kaws__sts_assume(n, role, err);
        if (status == KAWS_OK || !n->again || attempt == KAWS__STS_TRIES ||
            kaws__reading_left_ms(n) < 2 * attempt * pause_ms)
            return status;
        if (kaws__thread_pause(n->s->hooks, &n->seek->cancel,
                               attempt * pause_ms))
            return kaws__err_cancelled(err, "AWS credentials");
        kaws__err_clear(err);
    }
}


/* Goes from the credentials that were found to those of the last role. */
static kaws_status
kaws__sts_follow(kaws__reading *n, kaws_error *err)
{
    kaws_status status = KAWS_OK;

    while (status == KAWS_OK && n->role_count > 0)
        status = kaws__sts_role(n, &n->roles[--n->role_count], err);
    return status;
}


/* ==========================================================================
 * ROOM  helper   credentials that a program prints
 * ==========================================================================
 * Uses: sys thread disk child err buf text json sources reading
 * Gives: helper_is_safe helper_fill
 *
 * The program is what credential_process names. No shell runs it: words are
 * split as a POSIX shell splits them, and nothing is expanded. It prints one
 * object of JSON. What it prints is never shown, because it holds a secret.
 */

#define KAWS__HELPER_WORDS    64
#define KAWS__HELPER_WAIT_MS  20  /* how often we see whether it has ended    */


/* Splits a command. The words go to `room`, which is longer than the command.
 * Returns NULL, or what is wrong. */
static const char *
kaws__helper_words(const char *c, char *room,
                   char *argv[KAWS__HELPER_WORDS + 1])
{
    int count = 0, quote = 0, inside = 0;

    for (; *c != '\0'; c++) {
        if (quote == 0 && strchr(" \t\r\n", *c) != NULL) {
            if (inside)
                *room++ = '\0';
            inside = 0;
            continue;
        }
        if (!inside && count == KAWS__HELPER_WORDS)
            return "it has more than 64 words";
        if (!inside)
            argv[count++] = room;
        inside = 1;
        if (*c == quote)
            quote = 0;
        else if (quote == 0 && (*c == '"' || *c == '\''))
            quote = *c;
        else if (*c == '\\' && c[1] == '\0')
            return "it ends with a backslash";
        else if (*c == '\\' && (quote == 0 || (quote == '"' &&
                                               (c[1] == '"' || c[1] == '\\'))))
            *room++ = *++c;
        else
            *room++ = *c;
    }
    *room = '\0';
    argv[count] = NULL;
    return quote != 0 ? "a quote has no partner" : count == 0 ? "it is empty"
         : *argv[0] != '/' ? "the program must be named by its full path"
         : NULL;
}


/* Nobody but us and root may change what we run, nor the file that names it. */
static int
kaws__helper_is_safe(const kaws__stat *st)
{
    return st->regular && !st->others_write && (st->mine || st->roots);
}


/* May we run that program? */
static kaws_status
kaws__helper_check(kaws__reading *n, const char *path, kaws_error *err)
{
    kaws__stat st = { 0 };
    int fd = -1, os = kaws__disk_open(path, KAWS__READ_LINKED, &fd);

    if (os == 0)
        os = kaws__disk_stat(fd, NULL, &st);
    kaws__disk_close(fd);
    if (os != 0)
        return kaws__err_os(err, KAWS_CONFIG, os, "the profile %s: cannot read "
                            "the program of its credential_process, %s",
                            n->shown, KAWS__SHOW(kaws__buf_of(path)));
    if (kaws__helper_is_safe(&st))
        return KAWS_OK;
    return kaws__err_set(err, KAWS_CONFIG, "the profile %s: its "
                         "credential_process %s %s", n->shown,
                         KAWS__SHOW(kaws__buf_of(path)), !st.regular
                         ? "is not a file" : "is not run, because other users "
                         "may change it: it must belong to root or to the "
                         "server's user, and only the owner may write to it");
}


/* The program cannot be started. What the system lacks now it may have later;
 * and the program may be there, but not what runs it. */
static kaws_status
kaws__helper_unstarted(const kaws__reading *n, const char *path, int os,
                       kaws_error *err)
{
    static const struct { int os; kaws_status status; const char *words; }
    rows[] = {
        { EAGAIN, KAWS_SERVICE, " (may this user have one more process?)" },
        { ENOMEM, KAWS_SERVICE, "" }, { EMFILE, KAWS_SERVICE, "" },
        { ENFILE, KAWS_SERVICE, "" },
        { ETXTBSY, KAWS_SERVICE, " (somebody is writing it: replace it by "
          "renaming)" },
        { ENOENT, KAWS_CONFIG, " (it is there, so: does its #! line name a "
          "program, and end without a carriage return?)" },
        { EACCES, KAWS_CONFIG, " (is it executable, not on a file system with "
          "noexec, and allowed by AppArmor or SELinux?)" },
        { 0, KAWS_CONFIG, "" }
    };
    size_t i = 0;

    while (rows[i].os != 0 && rows[i].os != os)
        i++;
    return kaws__err_os(err, rows[i].status, os, "the profile %s: cannot run "
                        "its credential_process %s%s", n->shown,
                        KAWS__SHOW(kaws__buf_of(path)), rows[i].words);
}


/* Runs the program, and collects what it prints in the room. Returns its exit
 * status; *end says why we ended it. */
static int
kaws__helper_run(kaws__reading *n, kaws__child *child, kaws_status *end)
{
    const kaws__seek *seek = n->seek;
    int64_t until;
    size_t got;
    int ended;

    until = kaws__sys_ticks_us() + (int64_t)1000 * kaws__reading_left_ms(n);
    n->used = 0;
    *end = KAWS_OK;
    do {
        ended = kaws__child_ended(child);
        got = kaws__child_read(child, n->room + n->used,
                               KAWS__READING_ROOM - n->used,
                               ended ? 0 : KAWS__HELPER_WAIT_MS);
        n->used += got;
        if (n->used == KAWS__READING_ROOM)
            *end = KAWS_REPLY;
        else if (kaws__thread_pause(n->s->hooks, &seek->cancel, 0))
            *end = KAWS_CANCELLED;
        else if (kaws__reading_left_ms(n) == 0 ||
                 kaws__sys_ticks_us() >= until)     /* if the hook's stands   */
            *end = KAWS_NETWORK;
    } while (*end == KAWS_OK && (!ended || got > 0));
    return kaws__child_end(child);
}


/* Reads what the program printed. Returns NULL, or what is wrong. */
static const char *
kaws__helper_read(kaws__reading *n, uint8_t *text, size_t len, char room[128])
{
    kaws__member want[] = { { .name = "AccessKeyId" },
                            { .name = "SecretAccessKey" },
                            { .name = "SessionToken",
                              .kind = KAWS__OR_NULL },
                            { .name = "Expiration", .kind = KAWS__OR_NULL },
                            { .name = "AccountId", .kind = KAWS__IF_STRING },
                            { .name = "Version", .kind = KAWS__AS_WRITTEN } };
    size_t offset;
    const char *wrong = kaws__json_read(text, len, want, 6, &offset);

    if (len == 0)
        return "it printed nothing, so it is not one object of JSON";
    if (wrong != NULL) {
        (void)snprintf(room, 128, "it is not one object of JSON with these "
                       "members: %s, at byte %s", wrong, KAWS__DECIMAL(offset));
        return room;
    }
    if (!kaws__buf_same(want[5].value, kaws__buf_of("1")))
        return "its Version is not the number 1";
    if ((wrong = kaws__reading_parts(n, want, 0)) == NULL)
        kaws__reading_belongs(n, "account ", want[4].value);
    return wrong;
}


/* The source: a program. `command` is in memory that is kept. */
static kaws_status
kaws__helper_fill(kaws__reading *n, const char *command, kaws_error *err)
{
    char *argv[KAWS__HELPER_WORDS + 1], failed[128];
    const char *wrong = KAWS__CHILDREN
                      ? kaws__helper_words(command, (char *)n->line, argv)
                      : "it is not offered on Windows";
    kaws__child child;
    kaws_status status;
    int os, code;

    if (wrong != NULL)
        return kaws__err_set(err, KAWS_CONFIG, "the profile %s has a "
                             "credential_process that cannot be run: %s",
                             n->shown, wrong);
    if ((status = kaws__helper_check(n, argv[0], err)) != KAWS_OK)
        return status;
    n->asked = 1;
    if ((os = kaws__child_start(&child, argv)) != 0)
        return kaws__helper_unstarted(n, argv[0], os, err);
    code = kaws__helper_run(n, &child, &status);
    if (code < 0)
        (void)snprintf(failed, sizeof failed, "a signal ended it (%d)", -code);
    else
        (void)snprintf(failed, sizeof failed, "its exit status is %d; run it "
                       "as the server's user, in the server's environment, to "
                       "see why", code);
    if (status == KAWS_CANCELLED)
        return kaws__err_cancelled(err, "AWS credentials");
    if (status == KAWS_NETWORK)
        wrong = "it did not end in time, and was ended";
    else if (status == KAWS_REPLY)
        wrong = "it printed more than 65535 bytes";
    else if (code != 0)
        wrong = failed;
    else if ((wrong = kaws__helper_read(n, n->room, n->used,
                                        failed)) != NULL)
        status = KAWS_CREDENTIALS;
    if (wrong != NULL)
        return kaws__err_set(err, status == KAWS_OK ? KAWS_SERVICE
                             : status == KAWS_REPLY ? KAWS_CREDENTIALS : status,
                             "the credential_process %s of the profile %s gave "
                             "no credentials: %s",
                             KAWS__SHOW(kaws__buf_of(argv[0])), n->shown,
                             wrong);
    return kaws__reading_take(n, kaws__reading_names, err);
}


/* ==========================================================================
 * ROOM  profile  the profiles of AWS's tools
 * ==========================================================================
 * Uses: sys disk err buf text ini sources reading remote sts helper
 * Gives: profile_path profile_name profile_is_there profile_fill
 *
 * A profile is what the config file and the credentials file say of one name.
 * If both have a property, the credentials file's counts; but its keys are
 * never put together with a token of the config file.
 *
 * A profile has keys; or a role, and where the credentials come from that ask
 * for it: a token file, a different profile, or one of the other sources; or a
 * program. A role may so follow a role. We walk along the profiles first, and
 * put the roles on a list; then we ask the source at the end.
 */

enum { KAWS__CONFIG_FILE, KAWS__CREDENTIALS_FILE };

/* The properties that we look for. First the keys. A profile that has one of
 * the last three is for a person, and is refused. */
enum {
    KAWS__KEYS = 3, KAWS__OLD_TOKEN = 3, KAWS__ROLE_ARN, KAWS__TOKEN_FILE,
    KAWS__SOURCE_PROFILE, KAWS__CREDENTIAL_SOURCE, KAWS__SESSION_NAME,
    KAWS__EXTERNAL_ID, KAWS__DURATION, KAWS__MFA, KAWS__PROCESS,
    KAWS__ACCOUNT, KAWS__LOGINS, KAWS__PROPERTIES = KAWS__LOGINS + 3
};

static const char *const kaws__profile_names[KAWS__PROPERTIES] = {
    "aws_access_key_id", "aws_secret_access_key", "aws_session_token",
    "aws_security_token", "role_arn", "web_identity_token_file",
    "source_profile", "credential_source", "role_session_name", "external_id",
    "duration_seconds", "mfa_serial", "credential_process", "aws_account_id",
    "sso_session", "sso_start_url", "login_session"
};

static const char *const kaws__profile_files[] = { "the config file",
                                                   "the credentials file" };

typedef struct kaws__walk {       /* along the profiles                       */
    kaws__reading *n;
    const char *path[2];          /* of both files: kept; NULL: not named     */
    kaws_bytes  text[2];          /* what they hold                           */
    kaws__stat  st[2];
    int         os[2];            /* why a file could not be read, or 0       */
    int         has_keys[2];      /* a profile on the way has keys in it      */
    int         process;          /* the file that has the credential_process */
    kaws_bytes  names[KAWS__READING_ROLES];   /* the profiles so far          */
    int         count;            /* of those                                 */
    int         known;            /* files that know the last one             */
    kaws_bytes  want[KAWS__PROPERTIES];       /* what they say of it          */
} kaws__walk;


/* The name of a file, or NULL. The environment is asked each time, because a
 * program may change it, and a change may free the old name. */
static const char *
kaws__profile_path(const kaws__sources *s, int file)
{
    static const char *const names[] = { "AWS_CONFIG_FILE",
                                         "AWS_SHARED_CREDENTIALS_FILE" };

    return s->files[file] != NULL ? s->files[file]
                                  : kaws__sys_own_env(names[file]);
}


/* The name of the profile. */
static const char *
kaws__profile_name(const kaws__sources *s)
{
    const char *name = s->profile != NULL ? s->profile
                                          : kaws__sys_own_env("AWS_PROFILE");

    return name != NULL ? name : "default";
}


/* ---- the files ----------------------------------------------------------- */

/* Is the section the profile's? 0: no; 1: yes; 2: yes, and the file's sections
 * of rank 1 then do not count ([profile default] beats [default]). *bad: what
 * is wrong with the head. */
static int
kaws__profile_rank(kaws_bytes head, int file, kaws_bytes profile,
                   const char **bad)
{
    static const kaws_bytes word = { (const uint8_t *)"profile", 7 };
    const uint8_t *const end = head.at + head.len;
    kaws_bytes name = { head.at, head.len < word.len ? head.len : word.len };

    if (file == KAWS__CREDENTIALS_FILE)
        return kaws__buf_same(head, profile);
    if (head.len == word.len || !kaws__buf_same(name, word) ||
        (head.at[word.len] != ' ' && head.at[word.len] != '\t'))
        return kaws__buf_same(head, kaws__buf_of("default")) &&
               kaws__buf_same(head, profile);
    name = kaws__ini_trim(head.at + word.len, end);
    if (kaws__text_span(name, "_-/.%@:+") < name.len)
        *bad = "the name of a profile has only letters, digits and _-/.%@:+";
    return 2 * kaws__buf_same(name, profile);
}


/* Finds what one file says of the profile. Returns NULL, or what is wrong in
 * line *line. *known: the file has the profile. */
static const char *
kaws__profile_parse(kaws_bytes text, int file, kaws_bytes profile,
                    kaws_bytes want[KAWS__PROPERTIES], int *known, int *line)
{
    kaws__ini ini = { .left = text };
    int best = 0, rank = 0, what, i;

    while ((what = kaws__ini_next(&ini)) != KAWS__INI_END && ini.bad == NULL) {
        if (what == KAWS__INI_HEAD)
            rank = kaws__profile_rank(ini.name, file, profile, &ini.bad);
        if (rank > best) {
            memset(want, 0, KAWS__PROPERTIES * sizeof *want);
            best = rank;
        }
        for (i = 0; rank == best && what == KAWS__INI_PROPERTY &&
                    i < KAWS__PROPERTIES; i++)
            if (rank > 0 && kaws__text_alike(ini.name, kaws__profile_names[i]))
                want[i] = ini.value;
    }
    *known = best > 0;
    *line = ini.line;
    return ini.bad;
}


/* Reads a file into the room. A file that is not there counts as empty. */
static kaws_status
kaws__profile_load(kaws__walk *w, int file, kaws_error *err)
{
    kaws__reading *const n = w->n;
    const char *const called = kaws__profile_files[file];
    const char *path = kaws__profile_path(n->s, file);
    const char *shown;
    int os;

    if (path == NULL)
        return KAWS_OK;
    w->path[file] = path = kaws__reading_keep(n, kaws__buf_of(path));
    if (path == NULL)
        return kaws__err_set(err, KAWS_CONFIG, "the name of %s is too long",
                             called);
    shown = KAWS__SHOW(kaws__buf_of(path));
    w->os[file] = os = kaws__reading_load(n, path, &w->text[file],
                                          &w->st[file]);
    if (os == ENOENT)
        return KAWS_OK;
    if (os != 0)
        return kaws__err_os(err, KAWS_CONFIG, os, "cannot read %s %s", called,
                            shown);
    if (!w->st[file].regular)
        return kaws__err_set(err, KAWS_CONFIG, "%s %s is not a file", called,
                             shown);
    if (n->used == KAWS__READING_ROOM)
        return kaws__err_set(err, KAWS_CONFIG, "%s %s is too long: it and the "
                             "other file may have 65535 bytes", called, shown);
    return KAWS_OK;
}


/* Puts together what both files say of the last profile. */
static kaws_status
kaws__profile_read(kaws__walk *w, kaws_error *err)
{
    kaws_bytes of[2][KAWS__PROPERTIES];
    const kaws_bytes name = w->names[w->count - 1];
    const char *wrong;
    int file, known, line, i;

    memset(of, 0, sizeof of);
    w->known = 0;
    for (file = 0; file < 2; file++) {
        wrong = kaws__profile_parse(w->text[file], file, name, of[file], &known,
                                    &line);
        if (wrong != NULL)
            return kaws__err_set(err, KAWS_CONFIG, "%s %s: line %d: %s",
                                 kaws__profile_files[file],
                                 KAWS__SHOW(kaws__buf_of(w->path[file])), line,
                                 wrong);
        w->known += known;
        w->has_keys[file] |= of[file][0].len > 0 || of[file][1].len > 0;
    }
    if (of[1][0].len > 0 || of[1][1].len > 0)
        memset(of[0], 0, (KAWS__OLD_TOKEN + 1) * sizeof *of[0]);
    for (i = 0; i < KAWS__PROPERTIES; i++)
        w->want[i] = of[1][i].len > 0 ? of[1][i] : of[0][i];
    w->process = of[1][KAWS__PROCESS].len > 0;
    return KAWS_OK;
}


/* Begins a walk, at the profile that settings and environment name. */
static kaws_status
kaws__profile_begin(kaws__walk *w, kaws__reading *n, kaws_error *err)
{
    const char *name;
    kaws_status status;

    *w = (kaws__walk){ .n = n, .count = 1 };
    n->used = n->kept = 0;
    name = kaws__reading_keep(n, kaws__buf_of(kaws__profile_name(n->s)));
    w->names[0] = kaws__buf_of(name != NULL ? name : "");
    status = kaws__profile_load(w, KAWS__CONFIG_FILE, err);
    if (status == KAWS_OK)
        status = kaws__profile_load(w, KAWS__CREDENTIALS_FILE, err);
    return status == KAWS_OK ? kaws__profile_read(w, err) : status;
}


/* Does a file have the profile? A file that cannot be read may have it; so may
 * a file of the settings that is missing: its administrator meant it. */
static int
kaws__profile_is_there(kaws__reading *n)
{
    kaws__walk w;
    kaws_error err;

    return kaws__profile_begin(&w, n, &err) != KAWS_OK || w.known > 0 ||
           (w.os[0] != 0 && n->s->files[0] != NULL) ||
           (w.os[1] != 0 && n->s->files[1] != NULL);
}


/* Warns of files that others may change, or that have keys that others may
 * read. A config file without keys may be read by all. */
static void
kaws__profile_warn(kaws__walk *w)
{
    const char *path;
    int file;

    for (file = 0; file < 2; file++) {
        path = w->path[file];
        if (file == KAWS__CONFIG_FILE && !w->has_keys[file])
            w->st[file].others_read = 0;
        if (path != NULL && w->st[file].regular && !w->st[file].lent)
            kaws__err_others(w->n->s->hooks, kaws__profile_files[file],
                             KAWS__SHOW(kaws__buf_of(path)), &w->st[file]);
    }
}


/* ---- along the profiles -------------------------------------------------- */

/* "the config file X" for a message, and whether it is there. */
static const char *
kaws__profile_tell(const kaws__walk *w, int file, char *out, size_t cap)
{
    const char *const path = w->path[file];
    char shown[KAWS__TEXT_SHOWN];

    if (path == NULL)
        (void)snprintf(out, cap, "%s is not set", kaws__profile_files[file]);
    else
        (void)snprintf(out, cap, "%s %s %s", kaws__profile_files[file],
                       kaws_show(shown, sizeof shown, path),
                       w->os[file] != 0 ? "is not there" : "does not have it");
    return out;
}


static kaws_status
kaws__profile_unknown(const kaws__walk *w, kaws_error *err)
{
    char files[2][KAWS__TEXT_SHOWN + 40];
    const int i = w->count - 1;

    return kaws__err_set(err, KAWS_CONFIG, "there is no profile %s%s%s: %s, and"
                         " %s", KAWS__SHOW(w->names[i]),
                         i > 0 ? ", which is the source_profile of " : "",
                         i > 0 ? KAWS__SHOW(w->names[i - 1]) : "",
                         kaws__profile_tell(w, KAWS__CREDENTIALS_FILE, files[0],
                                            sizeof files[0]),
                         kaws__profile_tell(w, KAWS__CONFIG_FILE, files[1],
                                            sizeof files[1]));
}


/* Fails because of what the last profile says. */
static kaws_status
kaws__profile_bad(const kaws__walk *w, const char *what, const char *advice,
                  kaws_error *err)
{
    return kaws__err_set(err, KAWS_CONFIG, "the profile %s has %s%s",
                         KAWS__SHOW(w->names[w->count - 1]), what, advice);
}


/* Puts the last profile's role on the list. */
static kaws_status
kaws__profile_role(kaws__walk *w, kaws_error *err)
{
    kaws__reading *const n = w->n;
    const kaws_bytes *const want = w->want;
    kaws__role *const role = &n->roles[n->role_count];
    const char *wrong;
    uint32_t seconds = 0;

    if (w->count == KAWS__READING_ROLES)  /* each before has one, too         */
        return kaws__profile_bad(w, "a role", ", but five others come before "
                                 "it: at most five may follow each other", err);
    *role = (kaws__role){
        .arn = kaws__reading_keep(n, want[KAWS__ROLE_ARN]),
        .session = kaws__reading_keep(n, want[KAWS__SESSION_NAME]),
        .external_id = kaws__reading_keep(n, want[KAWS__EXTERNAL_ID]),
        .token_file = kaws__reading_keep(n, want[KAWS__TOKEN_FILE])
    };
    if (role->arn == NULL)
        return kaws__profile_bad(w, "web_identity_token_file, and so it must "
                                 "have role_arn", "", err);
    if (want[KAWS__DURATION].len > 0 &&
        (!kaws__text_number(want[KAWS__DURATION], 43200, &seconds) ||
         seconds < 900))
        return kaws__profile_bad(w, "a duration_seconds that is not 900 to "
                                 "43200", "", err);
    if (want[KAWS__MFA].len > 0)
        return kaws__profile_bad(w, "mfa_serial, which is not supported", ": a "
                                 "server has nobody to ask for a code", err);
    role->seconds = (int)seconds;
    if ((wrong = kaws__sts_role_wrong(role)) != NULL)
        return kaws__profile_bad(w, "a role that cannot be used: ", wrong, err);
    n->role_count++;
    return KAWS_OK;
}


/* What the walk has come to. */
enum { KAWS__GO_ON, KAWS__AT_KEYS, KAWS__AT_SOURCE, KAWS__AT_TOKEN,
       KAWS__AT_END };


/* Goes on to the source_profile. It may be the same only if it has keys, and
 * otherwise none of those before. If it has keys, they end the walk. */
static kaws_status
kaws__profile_next(kaws__walk *w, int *at, kaws_error *err)
{
    const kaws_bytes next = w->want[KAWS__SOURCE_PROFILE];
    const int itself = kaws__buf_same(next, w->names[w->count - 1]);
    kaws_status status = KAWS_OK;
    int i = 0;

    while (i < w->count && !kaws__buf_same(next, w->names[i]))
        i++;
    if (i < w->count &&
        !(itself && (w->want[0].len > 0 || w->want[1].len > 0)))
        return kaws__profile_bad(w, "a source_profile that leads back to the "
                                 "profile ", KAWS__SHOW(next), err);
    if (!itself) {
        w->names[w->count++] = next;
        status = kaws__profile_read(w, err);
    }
    if (status == KAWS_OK && w->known == 0)
        return kaws__profile_unknown(w, err);
    if (w->want[0].len > 0 || w->want[1].len > 0)
        *at = KAWS__AT_KEYS;
    return status;
}


/* Judges the last profile, and goes on if it leads to a different one. */
static kaws_status
kaws__profile_step(kaws__walk *w, int *at, kaws_error *err)
{
    const int token = w->want[KAWS__TOKEN_FILE].len > 0;
    const int source = w->want[KAWS__CREDENTIAL_SOURCE].len > 0;
    const int next = w->want[KAWS__SOURCE_PROFILE].len > 0;
    kaws_status status;

    *at = KAWS__AT_END;
    if (w->want[KAWS__ROLE_ARN].len == 0 && !token)
        return KAWS_OK;
    if ((status = kaws__profile_role(w, err)) != KAWS_OK)
        return status;
    *at = token ? KAWS__AT_TOKEN : source ? KAWS__AT_SOURCE : KAWS__GO_ON;
    if (!token && source == next)
        return kaws__profile_bad(w, "role_arn, and so it must have either "
                                 "source_profile or credential_source", "",
                                 err);
    return *at == KAWS__GO_ON ? kaws__profile_next(w, at, err) : KAWS_OK;
}


/* Asks the source that the last profile names. */
static kaws_status
kaws__profile_source(kaws__walk *w, kaws_error *err)
{
    static const struct {
        const char  *word, *name;
        kaws_status (*fill)(kaws__reading *n, kaws_error *err);
    } rows[] = {
        { "Environment", "the environment for the profile",
          kaws__reading_environment },
        { "EcsContainer", "the container for the profile",
          kaws__remote_container },
        { "Ec2InstanceMetadata", "the instance for the profile",
          kaws__remote_instance }
    };
    size_t i = 0;

    while (i < 3 && !kaws__buf_same(w->want[KAWS__CREDENTIAL_SOURCE],
                                    kaws__buf_of(rows[i].word)))
        i++;
    if (i == 3)
        return kaws__profile_bad(w, "a credential_source that is none of "
                                 "Environment, EcsContainer and "
                                 "Ec2InstanceMetadata", "", err);
    w->n->name = rows[i].name;
    w->n->used = 0;
    return rows[i].fill(w->n, err);
}


/* The keys of the last profile. */
static kaws_status
kaws__profile_keys(kaws__walk *w, kaws_error *err)
{
    kaws__reading *const n = w->n;
    int i;

    if (w->count > 1)
        n->name = "the source_profile of";
    for (i = 0; i < KAWS__KEYS; i++)
        n->seek->found[i] = w->want[i];
    if (w->want[KAWS__TOKEN].len == 0)
        n->seek->found[KAWS__TOKEN] = w->want[KAWS__OLD_TOKEN];
    kaws__reading_belongs(n, "account ", w->want[KAWS__ACCOUNT]);
    return kaws__reading_take(n, kaws__profile_names, err);
}


/* Anyone who may write the file that names a program has us run what he likes.
 */
static kaws_status
kaws__profile_process(kaws__walk *w, kaws_error *err)
{
    kaws__reading *const n = w->n;
    const kaws_bytes said = w->want[KAWS__PROCESS];
    const char *const command = kaws__reading_keep(n, said);
    kaws_status status;

    n->shown = KAWS__SHOW(w->names[w->count - 1]);
    if (!kaws__helper_is_safe(&w->st[w->process]))
        return kaws__err_set(err, KAWS_CONFIG, "the profile %s: its "
                             "credential_process is not run, because other "
                             "users may change %s %s, which names it: the file "
                             "must belong to root or to the server's user, and "
                             "only the owner may write to it", n->shown,
                             kaws__profile_files[w->process],
                             KAWS__SHOW(kaws__buf_of(w->path[w->process])));
    if (command == NULL || said.len > 4096)
        return kaws__profile_bad(w, "a credential_process of more than 4096 "
                                 "bytes", "", err);
    status = kaws__helper_fill(n, command, err);
    n->shown = n->s->shown;
    return status;
}


/* A profile without a role. */
static kaws_status
kaws__profile_end(kaws__walk *w, kaws_error *err)
{
    const kaws_bytes *const want = w->want;
    int i = KAWS__LOGINS;

    while (i < KAWS__PROPERTIES && want[i].len == 0)
        i++;
    if (i < KAWS__PROPERTIES)
        return kaws__profile_bad(w, kaws__profile_names[i], ", which is for "
                                 "people: have the AWS CLI log in, and name it "
                                 "as the credential_process of a profile", err);
    if (want[0].len > 0 || want[1].len > 0 || want[KAWS__PROCESS].len == 0)
        return kaws__profile_keys(w, err);
    return kaws__profile_process(w, err);
}


/* The source: a profile. The roles on the way remain on the list. */
static kaws_status
kaws__profile_fill(kaws__reading *n, kaws_error *err)
{
    kaws__walk w;
    kaws_status status = kaws__profile_begin(&w, n, err);
    int at = KAWS__GO_ON;

    if (status == KAWS_OK && w.known == 0)
        status = kaws__profile_unknown(&w, err);
    while (status == KAWS_OK && at == KAWS__GO_ON)
        status = kaws__profile_step(&w, &at, err);
    if (status == KAWS_OK)
        kaws__profile_warn(&w);
    if (status != KAWS_OK || at == KAWS__AT_TOKEN)
        return status;
    return at == KAWS__AT_KEYS ? kaws__profile_keys(&w, err)
         : at == KAWS__AT_SOURCE ? kaws__profile_source(&w, err)
         : kaws__profile_end(&w, err);
}


/* ==========================================================================
 * ROOM  native   which source config.auth = "native" means
 * ==========================================================================
 * Uses: sys err mem buf text sources reading remote sts profile
 * Gives: native_open
 *
 * A row of the table below has two functions: one says whether the source is
 * configured; the other has it give credentials, or says why there are none.
 * The first row that is configured when the ring opens is the ring's source; no
 * later row is asked, even if that one fails. The config's role follows any
 * source. If the source is the conf file or the program's hook, and no role
 * follows, this room and those that it uses do nothing.
 */

typedef struct kaws__native_row {
    kaws__source source;          /* first: room sources knows only this      */
    /* What messages add to its name; NULL: it is not configured. */
    const char *(*configured)(kaws__reading *n);
    kaws_status (*fill)(kaws__reading *n, kaws_error *err);
} kaws__native_row;


/* A secret without an id counts, too: the administrator meant this source, and
 * half a pair is an error. */
static const char *
kaws__native_environment(kaws__reading *n)
{
    (void)n;
    return kaws__sys_own_env("AWS_ACCESS_KEY_ID") != NULL ||
           kaws__sys_own_env("AWS_SECRET_ACCESS_KEY") != NULL
         ? "(AWS_ACCESS_KEY_ID)" : NULL;
}


/* A profile that the settings name. */
static const char *
kaws__native_named(kaws__reading *n)
{
    return n->s->profile;
}


/* The profile that AWS_PROFILE names; or `default`, if a file has it. */
static const char *
kaws__native_usual(kaws__reading *n)
{
    return kaws__sys_own_env("AWS_PROFILE") != NULL ||
           kaws__profile_is_there(n) ? kaws__profile_name(n->s) : NULL;
}


static const char *
kaws__native_web(kaws__reading *n)
{
    const char *role = kaws__sys_own_env("AWS_ROLE_ARN");

    (void)n;
    return kaws__sys_own_env("AWS_WEB_IDENTITY_TOKEN_FILE") == NULL ? NULL
         : role != NULL ? role : "(AWS_WEB_IDENTITY_TOKEN_FILE)";
}


/* The source: a web identity of the environment, the first of the roles. */
static kaws_status
kaws__native_web_fill(kaws__reading *n, kaws_error *err)
{
    static const char *const names[] = { "AWS_ROLE_ARN",
                                         "AWS_WEB_IDENTITY_TOKEN_FILE",
                                         "AWS_ROLE_SESSION_NAME" };
    const char *wrong, *value, *kept[3] = { NULL, NULL, NULL };
    kaws__role role;
    int i;

    for (i = 0; i < 3; i++)               /* a hook may change them           */
        if ((value = kaws__sys_own_env(names[i])) != NULL)
            kept[i] = kaws__reading_keep(n, kaws__buf_of(value));
    role = (kaws__role){ .arn = kept[0], .token_file = kept[1],
                         .session = kept[2] };
    if (role.arn == NULL || role.token_file == NULL)
        return kaws__err_set(err, KAWS_CONFIG, "AWS_WEB_IDENTITY_TOKEN_FILE is "
                             "set, and so AWS_ROLE_ARN has to be");
    if ((wrong = kaws__sts_role_wrong(&role)) != NULL)
        return kaws__err_set(err, KAWS_CONFIG, "AWS_ROLE_ARN or AWS_ROLE_"
                             "SESSION_NAME cannot be used: %s", wrong);
    n->roles[n->role_count++] = role;
    return KAWS_OK;
}


static const char *
kaws__native_container(kaws__reading *n)
{
    const char *value, *name = kaws__remote_container_url(&value);

    (void)n;
    return name == NULL ? NULL : strstr(name, "RELATIVE") != NULL
         ? "(AWS_CONTAINER_CREDENTIALS_RELATIVE_URI)"
         : "(AWS_CONTAINER_CREDENTIALS_FULL_URI)";
}


static const char *
kaws__native_instance(kaws__reading *n)
{
    (void)n;
    return kaws__remote_instance_off() ? NULL : "(EC2)";
}


static const char *
kaws__native_always(kaws__reading *n)
{
    (void)n;
    return "(auth = native)";
}


static kaws_status
kaws__native_none(kaws__reading *n, kaws_error *err)
{
    (void)n;
    return kaws__err_set(err, KAWS_CONFIG, "auth is native, and no source of "
                         "AWS credentials is configured (and AWS_EC2_METADATA_"
                         "DISABLED is true): set AWS_ACCESS_KEY_ID and "
                         "AWS_SECRET_ACCESS_KEY in the environment, or name a "
                         "profile, and the credentials file or config file that"
                         " has it");
}


/* Copies what the reading found to where the caller looks for it. */
static void
kaws__native_copy(kaws__seek *seek)
{
    size_t at = 0;
    int part;

    for (part = 0; part < 3; part++) {
        kaws_bytes *const found = &seek->found[part];
        if (found->len > 0)
            memcpy(seek->text + at, found->at, found->len);
        found->at = seek->text + at;
        at += found->len;
    }
}


/* Has the row give credentials, and goes from these to the roles'. */
static kaws_status
kaws__native_find(kaws__sources *s, kaws__seek *seek, kaws_error *err)
{
    const kaws__native_row *const row = (const void *)s->source;
    kaws__reading n;
    kaws_status status;

    if (!kaws__reading_begin(&n, s, seek))
        return kaws__err_memory(err, "reading the AWS credentials");
    status = row->fill(&n, err);
    if (status == KAWS_OK)
        status = kaws__sts_follow(&n, err);
    if (status == KAWS_OK)
        kaws__native_copy(seek);
    kaws__reading_end(&n);
    return status;
}


/* Goes from the credentials that room sources found to those of the config's
 * role. */
static kaws_status
kaws__native_then(kaws__sources *s, kaws__seek *seek, kaws_error *err)
{
    static const char *const parts[] = { "the id", "the secret", "the token" };
    kaws__reading n;
    kaws_status status;

    if (!kaws__reading_begin(&n, s, seek))
        return kaws__err_memory(err, "asking for a role's credentials");
    status = kaws__reading_take(&n, parts, err);
    if (status == KAWS_OK)
        status = kaws__sts_follow(&n, err);
    kaws_wipe(seek->text, KAWS__SOURCES_TEXT_MAX);
    if (status == KAWS_OK)
        kaws__native_copy(seek);
    kaws__reading_end(&n);
    return status;
}


static const kaws__native_row kaws__native_table[] = {
    { { "the profile", kaws__native_find }, kaws__native_named,
      kaws__profile_fill },
    { { "the environment", kaws__native_find }, kaws__native_environment,
      kaws__reading_environment },
    { { "the profile", kaws__native_find }, kaws__native_usual,
      kaws__profile_fill },
    { { "the web identity", kaws__native_find }, kaws__native_web,
      kaws__native_web_fill },
    { { "the container", kaws__native_find }, kaws__native_container,
      kaws__remote_container },
    { { "the instance", kaws__native_find }, kaws__native_instance,
      kaws__remote_instance },
    { { "no source", kaws__native_find }, kaws__native_always,
      kaws__native_none }
};


/* Takes over the config's role. */
static kaws_status
kaws__native_role(kaws__sources *s, const kaws_config *cfg, kaws_error *err)
{
    const char *wrong;

    s->role = (kaws__role){ .arn = cfg->role_arn,
                            .external_id = cfg->role_external_id,
                            .session = cfg->role_session_name };
    if (cfg->role_arn == NULL && cfg->role_external_id == NULL &&
        cfg->role_session_name == NULL)
        return KAWS_OK;
    wrong = cfg->role_arn != NULL ? kaws__sts_role_wrong(&s->role)
          : "role_external_id or role_session_name is set, but not role_arn";
    if (wrong != NULL)
        return kaws__err_set(err, KAWS_CONFIG, "cannot use the role: %s",
                             wrong);
    if (!s->native)
        s->then = kaws__native_then;
    return KAWS_OK;
}


/* Finds out which source the config and the environment mean, unless the
 * program has its hook or `native` is 0, and which role follows. The config's
 * strings are borrowed as those of kaws__sources_open. */
static kaws_status
kaws__native_open(kaws__sources *s, const kaws_config *cfg, int native,
                  kaws_error *err)
{
    const kaws__native_row *row = kaws__native_table;
    const char *shown;
    kaws__reading n;

    s->native = native && s->hooks->creds == NULL;
    if (s->native) {
        s->profile = cfg->profile;
        s->files[KAWS__CONFIG_FILE] = cfg->config_file;
        s->files[KAWS__CREDENTIALS_FILE] = cfg->credentials_file;
        if (!kaws__reading_begin(&n, s, NULL))
            return kaws__err_memory(err, "looking for AWS credentials");
        while ((shown = row->configured(&n)) == NULL)
            row++;
        s->source = &row->source;
        kaws_show(s->shown, sizeof s->shown, shown);
        kaws__reading_end(&n);
    }
    return kaws__native_role(s, cfg, err);
}


/* ==========================================================================
 * ROOM  creds    the credentials that requests are signed with
 * ==========================================================================
 * Uses: sys thread err mem buf text crypto sigv4 sources
 * Gives: creds_open creds_abandon creds_close creds_may_pass creds_ready
 *        creds_forget creds_spurned creds_renew creds_tell creds_signer
 *        creds_wipe creds_leak_in
 *
 * The credentials live, with the signing key of the day, in a page of their
 * own that is neither swapped nor dumped; so does the text that a source
 * reads. What leaves this room is a signer: all that one signature needs, but
 * never the secret. Each time the credentials are replaced, their generation
 * grows by 1. The room also says whether a text holds a piece of the secret
 * or of the token.
 *
 * One thread at a time asks the source. It holds the turn to ask, but no lock
 * that a signature needs. If the credentials will expire soon, the other
 * threads go on with them. If there are none, or they have expired, or AWS has
 * refused them, the other threads wait, and the answer is theirs, too, even if
 * it is a failure.
 *
 * Credentials expire by AWS's clock, and ours may differ. If ours is behind, we
 * send expired credentials: AWS refuses them, and we renew them. If ours is
 * ahead, new credentials seem to have expired. We use them for a minute all the
 * same: AWS's answer tells whether they or our clock is wrong.
 */

#define KAWS__CREDS_EARLY_S     300   /* renewed so long before they expire,  */
#define KAWS__CREDS_PART          3   /* or this part of their life before    */
#define KAWS__CREDS_PAUSE_MS  60000   /* after the source was asked in vain   */
#define KAWS__CREDS_BRIEF_MS    500   /* a failure in less time proves nothing*/
#define KAWS__CREDS_UNMET         3   /* regions whose failure is remembered  */
#define KAWS__CREDS_SPURN_MS   1000   /* after AWS refused what was just new  */

typedef struct kaws__signer {
    char     id[KAWS__SOURCES_ID_MAX + 1];
    kaws__mac_key key;            /* for one day, one region, KMS             */
    unsigned generation;          /* of the credentials it was made from      */
    unsigned told;                /* see kaws__creds                          */
    char     token[KAWS__SOURCES_TOKEN_MAX + 1];  /* mostly short, so last    */
} kaws__signer;

typedef struct kaws__secrets {    /* what the locked page holds               */
    kaws__signer signer;
    char    secret[KAWS__SIGV4_SECRET_MAX + 1];
    char    key_date[9], key_region[33];  /* what signer.key is for           */
    uint8_t text[KAWS__SOURCES_TEXT_MAX]; /* used by the holder of the turn   */
} kaws__secrets;

typedef struct kaws__unmet {      /* the source could not be reached          */
    char       region[33];        /* that it was asked for                    */
    int64_t    ms;                /* when it said so, by hooks.ticks_ms       */
    kaws_error why;               /* OK: this place is free                   */
} kaws__unmet;

typedef struct kaws__creds {
    const kaws_hooks *hooks;
    kaws__turn    asking;         /* the turn to ask the source               */
    kaws__sources sources;        /* used by the holder of that turn          */
    kaws__lock    lock;           /* guards all below                         */
    kaws__secrets *secrets;
    int64_t       expires;        /* Unix seconds of AWS's clock; 0: never    */
    int64_t       early;          /* they are renewed so many seconds before  */
    int           doubtful;       /* our clock said they came expired         */
    unsigned      refused;        /* the generation that AWS refused, or 0    */
    unsigned      spurned;        /* the one that was new when AWS refused it */
    int64_t       spurned_ms;     /* when that was, by hooks.ticks_ms         */
    unsigned      answers;        /* how often the source has answered        */
    unsigned      told;           /* how many of those followed a refusal     */
    int64_t       asked_ms;       /* its last answer came, by hooks.ticks_ms  */
    int           in_vain;        /* its last answer was of no use            */
    kaws_error    failure;        /* its last answer, if that was an error    */
    char          asked_in[33];   /* the region that it was asked for         */
    kaws__unmet   unmet[KAWS__CREDS_UNMET];   /* a region each                */
} kaws__creds;

enum {                            /* what the credentials are needed for      */
    KAWS__TO_SIGN,
    KAWS__TO_PROBE,               /* only if they are there: the source, which
                                   * may not answer, is not asked             */
    KAWS__TO_TELL,                /* whose they are; expired ones will do     */
    KAWS__TO_RENEW                /* the caller wants what the source has now */
};

enum {                            /* what they are                            */
    KAWS__GOOD,
    KAWS__EXPIRING,               /* good, but to be renewed                  */
    KAWS__WANTED                  /* there are none that AWS would accept     */
};


/* `conf_file` is borrowed until the credentials are closed. Nothing is read
 * yet. */
static kaws_status
kaws__creds_open(kaws__creds *c, const kaws_hooks *hooks,
                 const char *conf_file, kaws_error *err)
{
    kaws__secrets *s;

    *c = (kaws__creds){ .hooks = hooks };
    kaws__sources_open(&c->sources, hooks, conf_file);
    s = kaws__sys_alloc_locked(sizeof *s);
    if (s != NULL &&
        kaws__thread_turn_init(&c->asking, KAWS__RANK_SOURCE) == 0 &&
        kaws__thread_lock_init(&c->lock, KAWS__RANK_CREDS) == 0) {
        c->secrets = s;
        return KAWS_OK;
    }
    if (s != NULL)
        kaws__sys_free_locked(s, sizeof *s);
    kaws__thread_turn_free(&c->asking);
    return kaws__err_memory(err, "making a page for the credentials");
}


/* For a forked child: forgets the turn, which a thread of the parent may hold.
 */
static void
kaws__creds_abandon(kaws__creds *c)
{
    memset(&c->asking, 0, sizeof c->asking);
}


static void
kaws__creds_close(kaws__creds *c)
{
    if (c->secrets == NULL)
        return;
    kaws_wipe(c->secrets, sizeof *c->secrets);
    kaws__sys_free_locked(c->secrets, sizeof *c->secrets);
    kaws__thread_turn_free(&c->asking);
    kaws__thread_lock_free(&c->lock);
    c->secrets = NULL;
}


/* Whether the text holds a piece of the secret access key or of the token. */
static int
kaws__creds_leak_in(kaws__creds *c, kaws_bytes text)
{
    int leak;

    kaws__thread_lock(&c->lock);
    leak = kaws__text_holds(text, kaws__buf_of(c->secrets->secret)) ||
           kaws__text_holds(text, kaws__buf_of(c->secrets->signer.token));
    kaws__thread_unlock(&c->lock);
    return leak;
}


/* ---- asking the source ------------------------------------------------- */

/* Returns how good the credentials are for `need`. The lock must be held. */
static int
kaws__creds_state(const kaws__creds *c, int need, int64_t now)
{
    const int64_t left = c->expires - now;
    int64_t ago;

    if (need == KAWS__TO_RENEW || c->secrets->signer.generation == 0)
        return KAWS__WANTED;
    if (need == KAWS__TO_TELL)
        return KAWS__GOOD;
    if (c->refused != 0 || (c->expires != 0 && left <= 0 && !c->doubtful))
        return KAWS__WANTED;
    if (c->expires == 0 || left > c->early)
        return KAWS__GOOD;
    ago = c->in_vain ? c->hooks->ticks_ms(c->hooks->ctx) - c->asked_ms : -1;
    if (ago >= 0 && ago < KAWS__CREDS_PAUSE_MS)
        return KAWS__GOOD;
    return left > 0 ? KAWS__EXPIRING : KAWS__WANTED;
}


/* Takes over what the source found. Returns 0 if these are the credentials that
 * we had, even if they now expire later. The lock must be held. */
static int
kaws__creds_take(kaws__creds *c, const kaws__seek *seek)
{
    kaws__secrets *s = c->secrets;
    const int64_t left = seek->expires - seek->now;
    const int64_t part = left > 0 ? left / KAWS__CREDS_PART : 0;
    char *const mine[] = { s->signer.id, s->secret, s->signer.token };
    const size_t room[] = { sizeof s->signer.id, sizeof s->secret,
                            sizeof s->signer.token };
    int i, same = 1;

    c->expires = seek->expires;
    c->doubtful = c->expires != 0 && left <= 0;
    c->early = part < KAWS__CREDS_EARLY_S ? part : KAWS__CREDS_EARLY_S;
    for (i = 0; i < 3; i++) {
        same = same && kaws__buf_same(kaws__buf_of(mine[i]), seek->found[i]);
        (void)kaws__buf_copy_text(mine[i], room[i], seek->found[i]);
    }
    if (same)
        return 0;
    s->key_date[0] = '\0';
    s->signer.generation++;
    c->refused = 0;
    return 1;
}


/* Where the source is asked: AWS STS answers for one region. */
static const char *
kaws__creds_region(const kaws__seek *seek)
{
    return seek->region != NULL ? seek->region : "";
}


/* Whether a source may do better later. */
static int
kaws__creds_may_pass(const kaws_error *err)
{
    return err->status == KAWS_NETWORK || err->status == KAWS_SERVICE;
}


/* Remembers that the source could not be reached for that region, unless it had
 * too little time. If it refuses, only that region's failure is forgotten: else
 * each call would wait for the others again. With the lock held. */
static void
kaws__creds_remember(kaws__creds *c, const kaws__seek *seek,
                     const kaws_error *err)
{
    const char *region = kaws__creds_region(seek);
    kaws__unmet *u = c->unmet, *const end = u + KAWS__CREDS_UNMET, *oldest = u;

    for (; u < end && strcmp(u->region, region) != 0; u++)
        oldest = u->ms < oldest->ms ? u : oldest;
    if (err->status == KAWS_OK) {
        memset(c->unmet, 0, sizeof c->unmet);
    } else if (!kaws__creds_may_pass(err)) {
        if (u < end)
            memset(u, 0, sizeof *u);
    } else if (seek->left_ms >= KAWS__CREDS_BRIEF_MS) {
        u = u < end ? u : oldest;
        (void)snprintf(u->region, sizeof u->region, "%s", region);
        u->ms = c->asked_ms;
        u->why = *err;
    }
}


/* Why the source could not be reached for that region a short while ago: then
 * it is not asked. NULL: it may be asked. With the lock held. */
static const kaws_error *
kaws__creds_unmet(const kaws__creds *c, const kaws__seek *seek)
{
    const int64_t now = c->hooks->ticks_ms(c->hooks->ctx);
    const kaws__unmet *u = c->unmet;

    for (; u < c->unmet + KAWS__CREDS_UNMET; u++)
        if (u->why.status != KAWS_OK && now >= u->ms &&
            now - u->ms < KAWS__CREDS_PAUSE_MS &&
            strcmp(u->region, kaws__creds_region(seek)) == 0)
            return &u->why;
    return NULL;
}


/* Asks the source. The caller holds the turn. If the source fails, the old
 * credentials stay. If the call is cancelled, the source has not answered. */
static kaws_status
kaws__creds_ask(kaws__creds *c, kaws__seek *seek, kaws_error *err)
{
    kaws__secrets *s = c->secrets;
    const char *name = c->sources.source->name;
    const char *shown = c->sources.shown, *ends;
    char end[5], date[17];
    int newer = 0;
    kaws_status status;

    seek->text = s->text;
    seek->secret[0] = kaws__buf_of(s->secret);    /* only the holder of the
                                                   * turn changes these       */
    seek->secret[1] = kaws__buf_of(s->signer.token);
    status = kaws__sources_read(&c->sources, seek, err);
    kaws__thread_lock(&c->lock);
    if (seek->found[0].len > 0)
        newer = kaws__creds_take(c, seek);
    if (status != KAWS_CANCELLED) {
        c->answers++;
        c->told += seek->refused != 0;
        c->refused = seek->refused ? 0 : c->refused;
        c->asked_ms = c->hooks->ticks_ms(c->hooks->ctx);
        (void)snprintf(c->asked_in, sizeof c->asked_in, "%s",
                       kaws__creds_region(seek));
        c->in_vain = status != KAWS_OK || c->doubtful;
        kaws__err_clear(&c->failure);
        if (status != KAWS_OK)
            c->failure = *err;
        kaws__creds_remember(c, seek, err);
    }
    ends = kaws__sources_end(kaws__buf_of(s->signer.id), end);
    kaws_wipe(s->text, sizeof s->text);
    kaws__thread_unlock(&c->lock);
    if (newer && seek->refused)
        kaws__err_log(c->hooks, KAWS__LOG_NEWER, name, shown, ends);
    if (newer && (c->sources.native || c->sources.then != NULL))
        kaws__err_log(c->hooks, KAWS__LOG_IDENTITY, name, shown,
                      seek->owner[0] != '\0' ? seek->owner
                      : "an account that it does not name", ends,
                      seek->expires == 0 ? "never"
                      : kaws_amz_date(date, seek->expires));
    return status;
}


/* Forgets that the source could not be reached: the caller waits for nothing
 * else, and asks it again. */
static void
kaws__creds_forget(kaws__creds *c)
{
    kaws__thread_lock(&c->lock);
    kaws__err_clear(&c->failure);
    memset(c->unmet, 0, sizeof c->unmet);
    kaws__thread_unlock(&c->lock);
}


/* Asks the source, if that is still necessary. The caller holds the turn. If
 * the source failed while we waited for the turn, we return that failure; but
 * what it said for one region says nothing of another. */
static kaws_status
kaws__creds_turn(kaws__creds *c, kaws__seek *seek, int need, unsigned answers,
                 kaws_error *err)
{
    const kaws_error *shared;
    kaws_status status;
    int state;

    kaws__thread_lock(&c->lock);
    state = kaws__creds_state(c, need, seek->now);
    seek->refused = need != KAWS__TO_RENEW && c->refused != 0;
    shared = kaws__creds_unmet(c, seek);
    if (!seek->refused && answers != c->answers &&
        c->failure.status != KAWS_OK &&
        strcmp(c->asked_in, kaws__creds_region(seek)) == 0)
        shared = &c->failure;
    if (need == KAWS__TO_RENEW)
        shared = NULL;
    if (state == KAWS__WANTED && shared != NULL) {
        *err = *shared;
        c->refused = 0;                   /* until AWS refuses the next one   */
    }
    kaws__thread_unlock(&c->lock);
    if (state == KAWS__GOOD || shared != NULL)
        return err->status;
    status = kaws__creds_ask(c, seek, err);
    if (status == KAWS_OK || status == KAWS_CANCELLED)
        return status;
    if (seek->refused)
        kaws__err_log(c->hooks, KAWS__LOG_NO_NEWER, err->text);
    kaws__thread_lock(&c->lock);
    state = kaws__creds_state(c, need, seek->now);
    kaws__thread_unlock(&c->lock);
    if (state == KAWS__WANTED)
        return status;
    if (!seek->refused)
        kaws__err_log(c->hooks, KAWS__LOG_CREDS_OLD, err->text);
    kaws__err_clear(err);
    return KAWS_OK;
}


/* Makes sure that there are credentials that are good for `need`. *err must be
 * empty before. */
static kaws_status
kaws__creds_ready(kaws__creds *c, kaws__seek *seek, int need, kaws_error *err)
{
    const kaws_hooks asker = { .ctx = seek->cancel.arg,
                               .cancelled = seek->cancel.asked };
    kaws_status status;
    unsigned answers;
    int state, waited;

    kaws__thread_lock(&c->lock);
    state = kaws__creds_state(c, need, seek->now);
    answers = c->answers;
    kaws__thread_unlock(&c->lock);
    if (state == KAWS__GOOD ||
        (state == KAWS__EXPIRING && need == KAWS__TO_PROBE))
        return KAWS_OK;
    if (need == KAWS__TO_PROBE)
        return kaws__err_cancelled(err, "the credentials");
    waited = kaws__thread_turn_wait(&c->asking, state == KAWS__EXPIRING ? 0
                                    : seek->left_ms, &asker);
    if (waited < 0 && state == KAWS__EXPIRING)
        return KAWS_OK;                   /* another thread is asking         */
    if (waited == KAWS__GIVEN_UP)
        return kaws__err_cancelled(err, "the credentials");
    if (waited < 0)
        return kaws__err_set(err, KAWS_NETWORK, "no AWS credentials have come: "
                             "another thread has been asking %s for them for "
                             "%d ms", c->sources.source->name, seek->left_ms);
    seek->left_ms -= waited;
    if (state == KAWS__EXPIRING)
        seek->left_ms /= 2;               /* the old ones need time, too      */
    status = kaws__creds_turn(c, seek, need, answers, err);
    kaws__thread_turn_end(&c->asking, 0);
    return status;
}


/* AWS refused that generation, which was new for this call. A source such as
 * AWS STS gives new credentials each time: if AWS refuses them all, one call a
 * second asks the source, and not each call. */
static void
kaws__creds_spurned(kaws__creds *c, unsigned generation)
{
    kaws__thread_lock(&c->lock);
    if (c->spurned != generation)
        c->spurned_ms = c->hooks->ticks_ms(c->hooks->ctx);
    c->spurned = generation;
    kaws__thread_unlock(&c->lock);
}


/* AWS refused a signature made from that generation: are there newer
 * credentials now? `told` is from the same signer: if the source has been told
 * of a refusal since then, it is not told again. If the source fails (because
 * the conf file is half written, for example), nothing changes until AWS
 * refuses the next signature. */
static int
kaws__creds_renew(kaws__creds *c, kaws__seek *seek, unsigned generation,
                  unsigned told)
{
    const kaws__signer *now = &c->secrets->signer;
    kaws_status status = KAWS_OK;
    kaws_error err;
    int64_t ago;
    int newer, ask;

    kaws__err_clear(&err);
    kaws__thread_lock(&c->lock);
    ago = c->spurned == generation
        ? c->hooks->ticks_ms(c->hooks->ctx) - c->spurned_ms : -1;
    ask = now->generation == generation && c->told == told &&
          (ago < 0 || ago >= KAWS__CREDS_SPURN_MS);
    if (ask)
        c->refused = generation;
    kaws__thread_unlock(&c->lock);
    if (ask)
        status = kaws__creds_ready(c, seek, KAWS__TO_SIGN, &err);
    kaws__thread_lock(&c->lock);
    newer = now->generation != generation;
    kaws__thread_unlock(&c->lock);
    return newer || status == KAWS_CANCELLED;     /* the next attempt says so */
}


/* Tells whose credentials these are, and when they expire. Returns the end of
 * the access key id for a log. */
static const char *
kaws__creds_tell(kaws__creds *c, kaws_identity *out)
{
    const kaws__signer *now = &c->secrets->signer;
    const char *ends = "(none yet)";

    (void)snprintf(out->source, sizeof out->source, "%s",
                   c->sources.source->name);
    kaws__thread_lock(&c->lock);
    out->expires = c->expires;
    if (now->generation > 0)
        ends = kaws__sources_end(kaws__buf_of(now->id), out->access_key_end);
    kaws__thread_unlock(&c->lock);
    return ends;
}


/* ---- signing ----------------------------------------------------------- */

/* The bytes of a signer up to the end of its token. */
static size_t
kaws__creds_length(const kaws__signer *signer)
{
    return offsetof(kaws__signer, token) + strlen(signer->token);
}


/* Copies all that a signature for KMS needs in that region on that day. Call
 * creds_ready first. The caller wipes the copy. */
static void
kaws__creds_signer(kaws__creds *c, const char *date, const char *region,
                   kaws__signer *out)
{
    kaws__secrets *s = c->secrets;

    kaws__thread_lock(&c->lock);
    if (memcmp(s->key_date, date, 8) != 0 ||
        strcmp(s->key_region, region) != 0) {
        kaws__sigv4_key(&s->signer.key, s->secret, date, region, "kms");
        memcpy(s->key_date, date, 8);
        (void)kaws__buf_copy_text(s->key_region, sizeof s->key_region,
                                  kaws__buf_of(region));
    }
    memcpy(out, &s->signer, kaws__creds_length(&s->signer) + 1);
    out->told = c->told;
    kaws__thread_unlock(&c->lock);
}


static void
kaws__creds_wipe(kaws__signer *signer)
{
    kaws_wipe(signer, kaws__creds_length(signer));
}


/* ==========================================================================
 * ROOM  trust    which KMS key seals, and whose KMS keys are used
 * ==========================================================================
 * Uses: thread err buf text arn
 * Gives: trust_list_ok trust_open trust_close trust_entry trust_entries
 *        trust_own trust_tell trust_check trust_ask_first trust_region
 *        trust_choice
 *        trust_choose trust_choose_tried trust_untry trust_notice
 *        trust_sealed
 *
 * A KMS key is trusted if its account is the ring's own account, or is in the
 * list of the settings. The ring's own account is that of the KMS key that the
 * ring was opened with. If the settings name that KMS key by ARN, the ARN tells
 * the account. If they name it by id or alias, only a reply of KMS tells it: so
 * the own account is unknown until a reply has come. It is learned once, and
 * never changes.
 *
 * An id or alias means a KMS key of the account of the credentials, and others
 * than the author of the settings may write the conf file. So a reply alone
 * does not make an account the own one: the account must be in the list; or, if
 * there is no list, in an entry of the data file. An entry alone does not make
 * it the own one either, because others may write the data file. (Only if the
 * settings name no KMS key does the account that all entries share become the
 * own one.) Only if there is neither list nor entry is the first reply
 * believed; if there is a data file, that is logged.
 *
 * A choice is a KMS key and a region. They are one value, because the KMS key
 * is looked up in the region: both are taken, or neither.
 */

#define KAWS__TRUST_WHOSE 32      /* "aws 111122223333": partition, account   */
#define KAWS__TRUST_LIST 320      /* several of them, each after ", "         */

typedef struct kaws__choice {
    kaws__target target;          /* for new keys                             */
    char     region[KAWS__ARN_REGION_MAX + 1];    /* for ids and aliases      */
    char     arn[KAWS__ARN_MAX + 1];      /* what sealed last, or ""          */
    unsigned version;             /* how many choices were taken before       */
} kaws__choice;

typedef struct kaws__trust {
    const kaws_hooks *hooks;
    const char *accounts;         /* the list, borrowed                       */
    int         by_entries;       /* there is a file, but no list and no ARN  */
    kaws__lock  lock;             /* guards all below                         */
    char        entries[KAWS__TRUST_LIST];    /* the accounts of the entries  */
    char        own[KAWS__TRUST_WHOSE];   /* the own account, or ""           */
    kaws__choice now;             /* what is used                             */
    kaws__choice tried;           /* accepted by KMS last, but not yet taken  */
} kaws__trust;

enum {                            /* what a KMS key is to do, or has done     */
    KAWS__TO_OPEN,                /* open a blob                              */
    KAWS__TO_SEAL,                /* seal: it may be the first                */
    KAWS__SEALED                  /* it sealed, maybe as the first: then the
                                   * own account is its account               */
};


/* Account numbers of 12 digits, with commas or spaces between them. A list of
 * nothing but commas is refused, because it would count as no list. */
static int
kaws__trust_list_ok(const char *accounts)
{
    while (*accounts != '\0') {
        accounts += strspn(accounts, ", ");
        if (strcspn(accounts, ", ") != 12 ||
            strspn(accounts, "0123456789") != 12)
            return 0;
        accounts += 12 + strspn(accounts + 12, ", ");
    }
    return 1;
}


/* Writes whose KMS key an ARN names, or "" if the text is not an ARN. */
static void
kaws__trust_whose(char out[KAWS__TRUST_WHOSE], kaws_bytes arn_text)
{
    kaws__buf whose = kaws__buf_fixed(out, KAWS__TRUST_WHOSE);
    kaws__arn arn;

    memset(out, 0, KAWS__TRUST_WHOSE);
    if (!kaws__arn_parse(arn_text, &arn))
        return;
    kaws__buf_put(&whose, arn.partition.at, arn.partition.len);
    kaws__buf_put(&whose, " ", 1);
    kaws__buf_put(&whose, arn.account.at, arn.account.len);
}


/* The region that requests about that choice go to. */
static const char *
kaws__trust_region(const kaws__choice *choice)
{
    return choice->target.key_id[0] != '\0' ? choice->target.region
                                            : choice->region;
}


/* Writes the current choice with another KMS key and another region. NULL
 * leaves either as it is. */
static kaws_status
kaws__trust_choice(kaws__trust *t, const char *key_id, const char *region,
                   kaws__choice *out, kaws_error *err)
{
    char now[KAWS__ARN_MAX + 1], shown[96];

    kaws__thread_lock(&t->lock);
    *out = t->now;
    kaws__thread_unlock(&t->lock);
    if (region != NULL && !kaws__arn_region_ok(kaws__buf_of(region)))
        return kaws__err_set(err, KAWS_ARGUMENT, "region '%s' is not a region "
                             "of AWS, such as eu-west-1",
                             kaws__text_show(shown, sizeof shown,
                                             kaws__buf_of(region)));
    if (region != NULL)
        memcpy(out->region, region, strlen(region) + 1);
    memcpy(now, out->target.key_id, sizeof now);
    if (key_id == NULL && (region == NULL || now[0] == '\0'))
        return KAWS_OK;                   /* the target stays as it is        */
    return kaws__arn_target(&out->target, key_id != NULL ? key_id : now,
                            out->region, err);
}


/* *t is all zeros before. The config's strings are borrowed for as long as the
 * trust is open. */
static kaws_status
kaws__trust_open(kaws__trust *t, const kaws_hooks *hooks,
                 const kaws_config *cfg, kaws_error *err)
{
    const char *list = cfg->accounts != NULL ? cfg->accounts : "";

    if (kaws__thread_lock_init(&t->lock, KAWS__RANK_TRUST) != 0)
        return kaws__err_memory(err, "making a lock for the KMS keys");
    t->hooks = hooks;
    t->accounts = list;
    if (!kaws__trust_list_ok(list))
        return kaws__err_set(err, KAWS_CONFIG, "accounts is not a list of AWS "
                             "account numbers (12 digits each) and commas");
    if (kaws__trust_choice(t, cfg->kms_key_id, cfg->region != NULL ? cfg->region
                           : "us-east-1", &t->now, err) != KAWS_OK)
        return err->status = KAWS_CONFIG;
    kaws__trust_whose(t->own, kaws__buf_of(t->now.target.key_id));
    t->by_entries = t->own[0] == '\0' && *list == '\0' &&
                    cfg->data_file != NULL;
    return KAWS_OK;
}


static void
kaws__trust_close(kaws__trust *t)
{
    kaws__thread_lock_free(&t->lock);
}


/* ---- whose KMS keys are used ------------------------------------------- */

/* Adds the account of the KMS key that sealed an entry to a list of accounts.
 */
static void
kaws__trust_entry(char list[KAWS__TRUST_LIST], kaws_bytes arn_text)
{
    const size_t used = strlen(list);
    char whose[KAWS__TRUST_WHOSE];

    kaws__trust_whose(whose, arn_text);
    if (strstr(list, whose) == NULL)
        (void)snprintf(list + used, KAWS__TRUST_LIST - used, ", %s", whose);
}


/* Takes over the list of the accounts of the data file's entries. If the
 * settings name no KMS key, and all entries have the same account, that is the
 * own account. Once known, it stays. */
static void
kaws__trust_entries(kaws__trust *t, const char list[KAWS__TRUST_LIST])
{
    if (!t->by_entries)
        return;
    kaws__thread_lock(&t->lock);
    memcpy(t->entries, list, sizeof t->entries);
    if (t->own[0] == '\0' && t->now.target.key_id[0] == '\0' &&
        *list != '\0' && strchr(list + 1, ',') == NULL)
        memcpy(t->own, list + 2, sizeof t->own);
    kaws__thread_unlock(&t->lock);
}


/* Whether a KMS key of that account is trusted. Partitions never mix, because
 * one number means a different account in each. The lock must be held. */
static int
kaws__trust_has(const kaws__trust *t, const char *whose, int what)
{
    const kaws__target *target = &t->now.target;
    const char *ours = t->own[0] != '\0' ? t->own
                     : what == KAWS__TO_OPEN && target->key_id[0] != '\0'
                     ? kaws__arn_partition(target->region)->name : whose;
    size_t n = strcspn(whose, " ");

    if (whose[n] == '\0' || strncmp(whose, ours, n) != 0 ||
        (ours[n] != ' ' && ours[n] != '\0'))
        return 0;
    if (strcmp(whose, t->own) == 0 || strstr(t->accounts, whose + n + 1))
        return 1;
    return t->own[0] == '\0' && t->accounts[0] == '\0' &&
           what != KAWS__TO_OPEN &&
           (t->entries[0] == '\0' || strstr(t->entries, whose) != NULL);
}


/* The account's number, as settings have it: without the partition. */
static const char *
kaws__trust_number(const char *whose)
{
    return whose + strcspn(whose, "0123456789");
}


/* Writes the number of the own account, or "" if it is not known yet. */
static void
kaws__trust_own(kaws__trust *t, char out[13])
{
    kaws__thread_lock(&t->lock);
    (void)snprintf(out, 13, "%s", kaws__trust_number(t->own));
    kaws__thread_unlock(&t->lock);
}


/* Writes the trusted accounts, as far as they are known, for a log. */
static const char *
kaws__trust_tell(kaws__trust *t, char *out, size_t cap)
{
    const char *at = kaws__trust_number(t->entries);
    kaws__buf list = kaws__buf_fixed(out, cap);

    kaws__thread_lock(&t->lock);
    if (t->own[0] == '\0' && t->accounts[0] == '\0' && *at != '\0') {
        kaws__buf_text(&list, "that of the KMS key, if it is one of the keys'");
        for (; *at != '\0'; at = kaws__trust_number(at + 12)) {
            kaws__buf_text(&list, list.len < 50 ? " (" : ", ");
            kaws__buf_put(&list, at, 12);
        }
        kaws__buf_put(&list, ")", 2);
    } else
        (void)snprintf(out, cap, "%s%s%s", kaws__trust_number(t->own),
                       t->own[0] != '\0' && t->accounts[0] != '\0' ? ", " : "",
                       t->accounts);
    kaws__thread_unlock(&t->lock);
    return *out != '\0' ? out : "that of the KMS key";
}


/* Refuses a KMS key that is not trusted: FOREIGN. `what` is one of the enum. */
static kaws_status
kaws__trust_check(kaws__trust *t, const char *arn, int what, kaws_error *err)
{
    static const char *const words[][2] = {
        { "the blob was sealed by the KMS key", "" },
        { "that is the KMS key", "" },
        { "AWS KMS sealed with the KMS key",
          "name the KMS key by its ARN, or " }
    };
    char whose[KAWS__TRUST_WHOSE], ours[KAWS__TRUST_WHOSE];
    char entries[KAWS__TRUST_LIST];
    const char *listed = t->accounts;
    int trusted, learned, first;

    kaws__trust_whose(whose, kaws__buf_of(arn));
    kaws__thread_lock(&t->lock);
    trusted = kaws__trust_has(t, whose, what);
    learned = trusted && what == KAWS__SEALED && t->own[0] == '\0';
    if (learned)
        memcpy(t->own, whose, sizeof whose);
    first = learned && t->by_entries && t->entries[0] == '\0';
    if (!trusted) {
        memcpy(ours, t->own, sizeof ours);
        memcpy(entries, t->entries, sizeof entries);
    }
    kaws__thread_unlock(&t->lock);
    if (first)
        kaws__err_log(t->hooks, KAWS__LOG_FIRST_ACCOUNT,
                      kaws__trust_number(whose), arn);
    if (trusted)
        return KAWS_OK;
    if (*ours == '\0' && *listed == '\0')
        listed = what == KAWS__TO_OPEN ? "none" : entries + 2;
    return kaws__err_set(err, KAWS_FOREIGN, "%s %s, whose account is not among "
                         "the trusted ones (%s%s%.80s): if you trust that "
                         "account, %sadd it to the list of accounts",
                         words[what][0], arn, ours, *ours != '\0' &&
                         *listed != '\0' ? ", " : "", listed, words[what][1]);
}


/* Must KMS tell the own account before we know whether a KMS key is trusted? */
static int
kaws__trust_ask_first(kaws__trust *t, const kaws__target *target)
{
    int no_own;

    kaws__thread_lock(&t->lock);
    no_own = t->own[0] == '\0';
    kaws__thread_unlock(&t->lock);
    return no_own && t->accounts[0] == '\0' && target->key_id[0] != '\0';
}


/* Takes a choice that KMS has accepted, or only keeps it as the tried one.
 * Returns 0 if the choice must be checked again, because meanwhile another was
 * taken, or the own account was learned and is not its account. */
static int
kaws__trust_choose(kaws__trust *t, const kaws__choice *choice, int take)
{
    char whose[KAWS__TRUST_WHOSE];
    int fits;

    kaws__trust_whose(whose, kaws__buf_of(choice->arn));
    kaws__thread_lock(&t->lock);
    fits = choice->version == t->now.version &&
           (*whose == '\0' || kaws__trust_has(t, whose, KAWS__TO_SEAL));
    if (fits)
        *(take ? &t->now : &t->tried) = *choice;
    t->now.version += fits && take;       /* earlier checks are stale now     */
    kaws__thread_unlock(&t->lock);
    if (fits && take && choice->arn[0] != '\0')
        (void)kaws__trust_check(t, choice->arn, KAWS__SEALED, NULL);
    return fits;
}


/* Takes the choice if it is the tried one. Returns whether it was taken. */
static int
kaws__trust_choose_tried(kaws__trust *t, const char *key_id,
                         const char *region)
{
    kaws__choice tried;

    kaws__thread_lock(&t->lock);
    tried = t->tried;
    kaws__thread_unlock(&t->lock);
    return strcmp(tried.target.key_id, key_id) == 0 &&
           strcmp(tried.region, region) == 0 &&
           kaws__trust_choose(t, &tried, 1);
}


/* Forgets the tried choice if it is this one, because KMS now refuses it. */
static void
kaws__trust_untry(kaws__trust *t, const kaws__choice *choice)
{
    kaws__choice *tried = &t->tried;

    kaws__thread_lock(&t->lock);
    if (strcmp(tried->target.key_id, choice->target.key_id) == 0 &&
        strcmp(tried->region, choice->region) == 0)
        tried->target.key_id[0] = '\0';
    kaws__thread_unlock(&t->lock);
}


/* Notes that KMS sealed with that KMS key for the target. If the target is the
 * current one, and KMS sealed with a different KMS key before, an alias has
 * moved: then it warns. */
static void
kaws__trust_notice(kaws__trust *t, const kaws__target *target,
                   const char *arn)
{
    kaws__choice *now = &t->now;
    char was[KAWS__ARN_MAX + 1] = "";

    kaws__thread_lock(&t->lock);
    if (strcmp(now->target.key_id, target->key_id) == 0 &&
        strcmp(now->target.region, target->region) == 0 &&
        strcmp(now->arn, arn) != 0) {
        memcpy(was, now->arn, sizeof was);
        memcpy(now->arn, arn, strlen(arn) + 1);
    }
    kaws__thread_unlock(&t->lock);
    if (was[0] != '\0')
        kaws__err_log(t->hooks, KAWS__LOG_ALIAS, target->key_id, was, arn);
}


/* Writes the ARN of the KMS key that sealed last for the target; "" if the
 * target is not the current one, or nothing was sealed yet. */
static void
kaws__trust_sealed(kaws__trust *t, const kaws__target *target,
                   char arn[KAWS__ARN_MAX + 1])
{
    const kaws__choice *now = &t->now;

    *arn = '\0';
    kaws__thread_lock(&t->lock);
    if (strcmp(now->target.key_id, target->key_id) == 0 &&
        strcmp(now->target.region, target->region) == 0)
        memcpy(arn, now->arn, sizeof now->arn);
    kaws__thread_unlock(&t->lock);
}


/* ==========================================================================
 * ROOM  fault    what an error of AWS means
 * ==========================================================================
 * Uses: text json
 * Gives: fault_of fault_read
 *
 * A row of the table has all that follows from an error: the status, what may
 * cure it, and what the user should do. A row is found by AWS's type, without
 * the word Exception, or by the HTTP status if the reply has no type of AWS's.
 * The rows in parentheses are for errors that have no row of their own.
 */

enum {                            /* cures                                    */
    KAWS__NONE   = 0,
    KAWS__LATER  = 1,             /* it may go away soon: try again           */
    KAWS__SLOWER = 2,             /* AWS wants fewer requests: wait, try again*/
    KAWS__CLOCK  = 4,             /* our clock may be wrong                   */
    KAWS__RENEW  = 8,             /* there may be newer credentials           */
    KAWS__BOTH   = KAWS__CLOCK | KAWS__RENEW,
    KAWS__CITE   = 16,            /* no cure: AWS's message helps the user    */
    KAWS__ENDS   = 32,            /* the right to use a KMS key has ended     */
    KAWS__ALIVE  = 64,            /* no cure: it is about one KMS key, so KMS
                                   * answers for others, whatever the HTTP
                                   * status says                              */
    KAWS__FINAL  = KAWS__CITE | KAWS__ENDS,
    KAWS__ITS_KEY = KAWS__LATER | KAWS__ALIVE
};

typedef struct kaws__fault {
    const char *names;            /* types and HTTP statuses, between spaces  */
    kaws_status status;           /* OK: the answer to a dry run              */
    int         cures;
    const char *advice;
} kaws__fault;

#define KAWS__FAULT(names, status, cures, advice) \
    { " " names " ", KAWS_##status, KAWS__##cures, advice }

static const kaws__fault kaws__faults[] = {
    KAWS__FAULT("Throttling Throttled RequestThrottled TooManyRequests "
                "RequestLimitExceeded ProvisionedThroughputExceeded SlowDown "
                "BandwidthLimitExceeded PriorRequestNotComplete 429",
                THROTTLED, SLOWER, "call less often"),
    KAWS__FAULT("KMSInternal DependencyTimeout InternalFailure "
                "InternalServerError ServiceUnavailable RequestTimeout "
                "408 425 500 502 503 504", SERVICE, LATER, "try again later"),
    KAWS__FAULT("KeyUnavailable", SERVICE, ITS_KEY, "try again later"),
    KAWS__FAULT("InvalidSignature SignatureDoesNotMatch AuthFailure",
                CREDENTIALS, BOTH,
                "check the credentials and this machine's clock"),
    KAWS__FAULT("RequestTimeTooSkewed RequestExpired RequestInTheFuture",
                CREDENTIALS, CLOCK,
                "check the credentials and this machine's clock"),
    KAWS__FAULT("UnrecognizedClient InvalidClientTokenId", CREDENTIALS, RENEW,
                "check the credentials in the conf file (an access key id that "
                "begins with AKIA takes no session token)"),
    KAWS__FAULT("ExpiredToken", CREDENTIALS, RENEW,
                "write a new session token into the conf file"),
    KAWS__FAULT("IncompleteSignature MissingAuthenticationToken", CREDENTIALS,
                NONE, "check the credentials in the conf file"),
    KAWS__FAULT("OptInRequired", CREDENTIALS, NONE,
                "enable the region for the account"),
    KAWS__FAULT("401 403", DENIED, RENEW,
                "check the credentials in the conf file; or a proxy refuses"),
    KAWS__FAULT("AccessDenied NotAuthorized", DENIED, FINAL,
                "allow it in the IAM policy and the key policy"),
    KAWS__FAULT("NotFound", KMS_KEY, FINAL,
                "check the KMS key's id and the region"),
    KAWS__FAULT("InvalidArn", KMS_KEY, CITE, "check the KMS key's ARN"),
    KAWS__FAULT("Disabled", KMS_KEY, FINAL, "enable the KMS key"),
    KAWS__FAULT("KMSInvalidState", KMS_KEY, FINAL,
                "cancel its deletion, or check the state of the KMS key"),
    KAWS__FAULT("InvalidKeyUsage", KMS_KEY, CITE,
                "use a symmetric KMS key for encryption"),
    KAWS__FAULT("UnsupportedOperation", KMS_KEY, CITE,
                "this kind of KMS key cannot do that"),
    KAWS__FAULT("InvalidCiphertext", MISMATCH, NONE,
                "it was sealed with another encryption context, or it is "
                "damaged"),
    KAWS__FAULT("InvalidCiphertext-entry", MISMATCH, NONE,
                "it was sealed for another name or another file, or it is "
                "damaged"),
    KAWS__FAULT("IncorrectKey", MISMATCH, NONE,
                "another KMS key sealed it than the one that was named"),
    KAWS__FAULT("LimitExceeded", SERVICE, CITE,
                "a KMS key can be rotated on demand 25 times"),
    KAWS__FAULT("Conflict", SERVICE, CITE, "try again later"),
    KAWS__FAULT("Validation", ARGUMENT, NONE,
                "AWS KMS rejected the request as invalid"),
    KAWS__FAULT("DryRunOperation", OK, NONE, "that answers another request"),
    KAWS__FAULT("(type)", SERVICE, NONE,
                "see the AWS KMS documentation for this error"),
    KAWS__FAULT("(3)", REPLY, NONE,
                "redirects are not followed; is that AWS KMS?"),
    KAWS__FAULT("(5)", SERVICE, NONE, "is that AWS KMS?"),
    KAWS__FAULT("(status)", REPLY, NONE, "is that AWS KMS?")
};


/* `type` is one of AWS's, or "". A type that is not in the table counts as HTTP
 * status 500 if the HTTP status says that the server failed. */
static const kaws__fault *
kaws__fault_of(const char *type, int http)
{
    const size_t rows = sizeof kaws__faults / sizeof kaws__faults[0];
    char names[3][80] = { "", "", "(status)" };
    size_t n = strlen(type), i = 0;

    if (n > 9 && strcmp(type + n - 9, "Exception") == 0)
        n -= 9;
    if (n > 0) {
        (void)snprintf(names[0], sizeof names[0], " %.*s ", (int)n, type);
        (void)snprintf(names[1], sizeof names[1], "%s",
                       http >= 500 ? " 500 " : "(type)");
    } else {
        (void)snprintf(names[0], sizeof names[0], " %d ", http);
        (void)snprintf(names[1], sizeof names[1], "(%d)", http / 100);
    }
    while (strstr(kaws__faults[i % rows].names, names[i / rows]) == NULL)
        i++;
    return &kaws__faults[i % rows];
}


/* The error in a reply. `type` gets AWS's type, without a prefix up to '#' and
 * a suffix from ':' on, or "": types are letters alone, so anything else counts
 * as none. *message gets AWS's message. */
static const kaws__fault *
kaws__fault_read(kaws_reply *r, char type[64], kaws_bytes *message)
{
    kaws__member said[] = { { .name = "__type" },
                            { .name = "message" },
                            { .name = "Message" } };
    size_t offset, i, n = 0;
    int letters = 1;

    if (r->body_len > r->body_max ||      /* it did not fit                   */
        kaws__json_read(r->body, r->body_len, said, 3, &offset) != NULL)
        memset(said, 0, sizeof said);
    for (i = 0; i < said[0].value.len && said[0].value.at[i] != ':'; i++) {
        int c = said[0].value.at[i];
        if (c == '#') {
            n = 0;
            letters = 1;
        } else {
            letters &= kaws__text_lower(c) >= 'a' && kaws__text_lower(c) <= 'z';
            if (n < 63)
                type[n++] = (char)c;
        }
    }
    type[letters ? n : 0] = '\0';
    *message = said[1].value.at != NULL ? said[1].value : said[2].value;
    return kaws__fault_of(type, r->http);
}


/* ==========================================================================
 * ROOM  shield   fetched keys, kept encrypted in memory for a time
 * ==========================================================================
 * Uses: sys thread err mem crypto
 * Gives: shield_open shield_close shield_set shield_empty shield_part
 *        shield_hits shield_ask shield_wait shield_end
 *
 * Each key is encrypted by itself, under a page key: 32 random bytes in a page
 * that is neither swapped nor dumped, and that a forked child finds wiped. A
 * thread that decrypts a key copies the page key, and wipes the copy. The page
 * key is made when the first key is kept, and wiped whenever the last one goes.
 * A key's name, owner, type and length, and the generation of the file,
 * are authenticated with it. So a key that is found by the digest of its name
 * cannot be given out as a different key.
 *
 * A key that is too old, by ticks_ms, is not given out any more. No thread
 * waits for that moment, because the library runs only when it is called. The
 * next thread that looks for any key wipes the old ones, and with the youngest
 * key the page key as well. If there are too many keys, the oldest is wiped.
 *
 * The first thread that wants a key leads a flight: it asks KMS, and all
 * threads that want the key meanwhile wait. They then get the key out of the
 * shield, or else the leader's error. A leader that gives up for a reason of
 * its own hands the flight over to a thread that waits. If the shield is
 * emptied during a flight, or the credentials are read again, the flight's key
 * is not kept, and no thread that comes later joins that flight.
 */

enum {
    KAWS__SHIELD_KEYS = 1024, KAWS__SHIELD_BYTES = 1 << 20,   /* at most      */
    KAWS__SHIELD_SECONDS = 86400, KAWS__SHIELD_CHAINS = 256
};

typedef struct kaws__kept {       /* a key that is kept                       */
    struct kaws__kept *next, *younger;    /* in its chain; by age             */
    uint64_t id;
    int64_t  born_ms;
    size_t   len;
    uint8_t  nonce[12];
    uint8_t  bytes[];             /* encrypted; the tag follows them          */
} kaws__kept;

typedef struct kaws__page {       /* what the locked page holds               */
    uint8_t     key[32];
    int         has_key;
    kaws__kept *chains[KAWS__SHIELD_CHAINS];
} kaws__page;

typedef struct kaws__flight {
    struct kaws__flight *next;
    uint64_t    id, epoch;
    int         threads;          /* the leader, and those who wait           */
    int         led, over;
    kaws_error  err;              /* over: how KMS answered the leader        */
} kaws__flight;

typedef struct kaws__shield {
    const kaws_hooks *hooks;
    kaws__lock  lock;             /* guards all below                         */
    kaws__cond  landed;           /* a flight is over, or has lost its leader */
    int         seconds;          /* how long a key is kept; 0: off           */
    uint64_t    generation;       /* replacements of the file. It is changed
                                   * with the vault's lock held, too          */
    uint64_t    epoch;            /* how often the shield was emptied, or the
                                   * credentials were read again              */
    uint64_t    nonce;            /* the last one, of whatever page key       */
    int64_t     now_ms;           /* when it was last used                    */
    uint64_t    hits;
    size_t      keys, bytes;
    kaws__page *page;             /* NULL: no key is kept                     */
    kaws__kept *oldest, *youngest;
    kaws__flight *flights;
} kaws__shield;

typedef struct kaws__wanted {     /* a key that a thread wants                */
    uint64_t    id, generation;   /* of its name; of the file                 */
    kaws_bytes  about;            /* all that it is bound to                  */
    uint8_t    *plain;            /* where its bytes go                       */
    size_t      len;
    kaws__flight *flight;         /* that the thread leads or waits for       */
    uint8_t     key[32], nonce[12], tag[KAWS__TAG];   /* what decrypts it     */
    uint64_t    epoch;            /* the shield's when these were copied      */
} kaws__wanted;

typedef enum kaws__todo {         /* what the thread has to do                */
    KAWS__HAVE,                   /* nothing: it has its key                  */
    KAWS__FAILED,                 /* nothing: the leader's error is its own   */
    KAWS__WAIT,                   /* wait a little, and ask again             */
    KAWS__LEAD,                   /* ask KMS, and end the flight              */
    KAWS__ALONE                   /* ask KMS, for itself                      */
} kaws__todo;


/* *s is all zeros before. Close it even if this fails. */
static int
kaws__shield_open(kaws__shield *s, const kaws_hooks *hooks)
{
    int os = KAWS__COND_INIT(&s->landed);

    s->hooks = hooks;
    if (os == 0 &&
        (os = kaws__thread_lock_init(&s->lock, KAWS__RANK_SHIELD)) != 0)
        KAWS__COND_FREE(&s->landed);
    return os;
}


/* ---- what is kept ------------------------------------------------------- */

/* Wipes the keys and the page key. The lock must be held: here, and in all
 * functions below that do not take it. */
static void
kaws__shield_forget(kaws__shield *s)
{
    kaws__kept *k;

    while ((k = s->oldest) != NULL) {
        s->oldest = k->younger;
        kaws__mem_free(s->hooks, k, sizeof *k + k->len + KAWS__TAG);
    }
    s->youngest = NULL;
    s->keys = s->bytes = 0;
    kaws_wipe(s->page, sizeof *s->page);
}


static void
kaws__shield_drop_oldest(kaws__shield *s)
{
    kaws__kept *k = s->oldest;
    kaws__kept **at = &s->page->chains[k->id % KAWS__SHIELD_CHAINS];

    if (k == s->youngest) {
        kaws__shield_forget(s);
        return;
    }
    while (*at != k)
        at = &(*at)->next;
    *at = k->next;
    s->oldest = k->younger;
    s->keys--;
    s->bytes -= k->len;
    kaws__mem_free(s->hooks, k, sizeof *k + k->len + KAWS__TAG);
}


/* Drops keys that are too old; all keys if the clock has jumped back, because
 * then no age is certain. */
static void
kaws__shield_age(kaws__shield *s)
{
    int64_t now_ms = s->hooks->ticks_ms(s->hooks->ctx);

    if (now_ms < s->now_ms)
        kaws__shield_forget(s);
    s->now_ms = now_ms;
    while (s->oldest != NULL && (uint64_t)now_ms - (uint64_t)s->oldest->born_ms
                                >= (uint64_t)s->seconds * 1000)
        kaws__shield_drop_oldest(s);
}


/* Returns the key of that id, or NULL if it is not kept. */
static kaws__kept *
kaws__shield_find(kaws__shield *s, uint64_t id)
{
    kaws__kept *k;

    kaws__shield_age(s);
    k = s->page->chains[id % KAWS__SHIELD_CHAINS];
    while (k != NULL && k->id != id)
        k = k->next;
    return k;
}


/* Encrypts a key into *k, which then belongs to the shield. Returns 0 if there
 * is no page key, because there are no random bytes. */
static int
kaws__shield_keep(kaws__shield *s, const kaws__wanted *w, kaws__kept *k)
{
    kaws__page *page = s->page;
    kaws__kept **chain = &page->chains[w->id % KAWS__SHIELD_CHAINS];

    kaws__shield_age(s);
    while (s->keys >= KAWS__SHIELD_KEYS ||
           s->bytes + w->len > KAWS__SHIELD_BYTES)
        kaws__shield_drop_oldest(s);
    if (!page->has_key &&
        s->hooks->random(s->hooks->ctx, page->key, sizeof page->key) != 0)
        return 0;
    page->has_key = 1;
    k->id = w->id;
    s->nonce++;
    memcpy(k->nonce, &s->nonce, sizeof s->nonce);
    k->born_ms = s->now_ms;
    k->len = w->len;
    memcpy(k->bytes, w->plain, w->len);
    (void)kaws__crypto_aead(page->key, k->nonce, w->about, 1, k->bytes, k->len,
                            k->bytes + k->len);
    k->next = *chain;
    *chain = k;
    *(s->oldest != NULL ? &s->youngest->younger : &s->oldest) = k;
    s->youngest = k;
    s->keys++;
    s->bytes += k->len;
    return 1;
}


/* ---- on, off, and emptied ----------------------------------------------- */

static void
kaws__shield_drop_page(kaws__shield *s)
{
    kaws__shield_forget(s);
    kaws__sys_free_locked(s->page, sizeof *s->page);
    s->page = NULL;
    s->epoch++;
}


/* Keeps keys for so many seconds from now on, or no keys if there is no page
 * that can be locked. */
static void
kaws__shield_set(kaws__shield *s, int seconds)
{
    size_t len = sizeof *s->page;
    int os = 0;

    seconds = seconds < 0 ? 0 : seconds < KAWS__SHIELD_SECONDS
                                ? seconds : KAWS__SHIELD_SECONDS;
    if (seconds == kaws__thread_peek(&s->seconds))
        return;
    kaws__thread_lock(&s->lock);
    if (seconds != s->seconds) {
        kaws__shield_drop_page(s);
        if (seconds > 0 && (s->page = kaws__sys_alloc_locked(len)) == NULL)
            os = ENOMEM;
        else if (seconds > 0 && (os = kaws__sys_lock_pages(s->page, len)) != 0)
            kaws__shield_drop_page(s);
        kaws__thread_poke(&s->seconds, seconds);
    }
    kaws__thread_unlock(&s->lock);
    if (os != 0)
        kaws__err_log(s->hooks, KAWS__LOG_NO_PAGE, kaws__sys_error_text(os),
                      os);
}


/* Wipes all keys and the page key. `replaced`: the data file was replaced. Then
 * the caller holds the vault's lock, so that the generation and the table
 * change together. */
static void
kaws__shield_empty(kaws__shield *s, int replaced)
{
    if (s == NULL)
        return;
    kaws__thread_lock(&s->lock);
    kaws__shield_forget(s);
    s->epoch++;
    if (replaced)
        s->generation++;
    kaws__thread_unlock(&s->lock);
}


/* From now on no thread joins a flight that has begun. */
static void
kaws__shield_part(kaws__shield *s)
{
    kaws__thread_lock(&s->lock);
    s->epoch++;
    kaws__thread_unlock(&s->lock);
}


/* Call it when no thread uses the shield any more. */
static void
kaws__shield_close(kaws__shield *s)
{
    kaws__flight *f;

    while ((f = s->flights) != NULL) {
        s->flights = f->next;
        kaws__mem_free(s->hooks, f, sizeof *f);
    }
    kaws__shield_drop_page(s);
    if (s->lock.ready)
        KAWS__COND_FREE(&s->landed);
    kaws__thread_lock_free(&s->lock);
}


static uint64_t
kaws__shield_hits(kaws__shield *s)
{
    uint64_t hits;

    kaws__thread_lock(&s->lock);
    hits = s->hits;
    kaws__thread_unlock(&s->lock);
    return hits;
}


/* ---- flights ------------------------------------------------------------ */

/* Takes the thread off its flight. The last one off frees the flight. */
static void
kaws__shield_leave(kaws__shield *s, kaws__wanted *w)
{
    kaws__flight *f = w->flight, **at = &s->flights;

    w->flight = NULL;
    if (f == NULL || --f->threads > 0)
        return;
    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    kaws__mem_free(s->hooks, f, sizeof *f);
}


/* Joins the flight that is for that key, or begins one. */
static kaws__todo
kaws__shield_join(kaws__shield *s, kaws__wanted *w)
{
    kaws__flight *f = s->flights;

    while (f != NULL && (f->over || f->id != w->id || f->epoch != s->epoch))
        f = f->next;
    if (f == NULL) {
        if ((f = kaws__mem_new(s->hooks, sizeof *f)) == NULL)
            return KAWS__ALONE;
        f->id = w->id;
        f->epoch = s->epoch;
        f->next = s->flights;
        s->flights = f;
    }
    w->flight = f;
    f->threads++;
    if (f->led)
        return KAWS__WAIT;
    f->led = 1;
    return KAWS__LEAD;
}


/* Decrypts what was copied. The lock must not be held. If anything has changed
 * the encrypted key, all keys are wiped. */
static kaws__todo
kaws__shield_unseal(kaws__shield *s, kaws__wanted *w)
{
    int first, right = kaws__crypto_aead(w->key, w->nonce, w->about, 0,
                                         w->plain, w->len, w->tag);

    kaws_wipe(w->key, sizeof w->key);
    if (right)
        return KAWS__HAVE;
    kaws__thread_lock(&s->lock);
    s->hits--;
    if ((first = w->epoch == s->epoch) != 0) {
        kaws__shield_forget(s);
        s->epoch++;
    }
    kaws__thread_unlock(&s->lock);
    if (first)
        kaws__err_log(s->hooks, KAWS__LOG_ALTERED);
    return KAWS__ALONE;
}


/* Says what the thread has to do for its key, and fills *err if it FAILED. On
 * WAIT, the thread asks again, or ends with shield_end. On LEAD and ALONE, it
 * ends with shield_end. */
static kaws__todo
kaws__shield_ask(kaws__shield *s, kaws__wanted *w, kaws_error *err)
{
    const kaws__flight *f = w->flight;
    const kaws__kept *k = NULL;
    kaws__todo todo = KAWS__ALONE;

    kaws__thread_lock(&s->lock);
    if (f != NULL && !f->over && f->led) {
        todo = KAWS__WAIT;
    } else if (f != NULL && f->over && f->err.status != KAWS_OK) {
        *err = f->err;
        todo = KAWS__FAILED;
        kaws__shield_leave(s, w);
    } else {
        kaws__shield_leave(s, w);
        if (s->page != NULL && w->generation == s->generation)
            todo = (k = kaws__shield_find(s, w->id)) == NULL
                 ? kaws__shield_join(s, w) : KAWS__HAVE;
    }
    if (k != NULL) {
        w->epoch = s->epoch;
        memcpy(w->nonce, k->nonce, sizeof w->nonce);
        memcpy(w->key, s->page->key, sizeof w->key);
        memcpy(w->tag, k->bytes + k->len, KAWS__TAG);
        memcpy(w->plain, k->bytes, k->len < w->len ? k->len : w->len);
        s->hits++;
    }
    kaws__thread_unlock(&s->lock);
    return k != NULL ? kaws__shield_unseal(s, w) : todo;
}


/* Waits until there is reason to ask again, but for `ms` at most. */
static void
kaws__shield_wait(kaws__shield *s, const kaws__wanted *w, int ms)
{
    kaws__thread_lock(&s->lock);
    if (w->flight->led && !w->flight->over)
        KAWS__COND_WAIT(&s->landed, &s->lock.mutex, ms);
    kaws__thread_unlock(&s->lock);
}


/* Call it when the thread is done. If it `leads`, *err is KMS's answer; or the
 * thread `gave_up`, and another one that waits has to lead. */
static void
kaws__shield_end(kaws__shield *s, kaws__wanted *w, int leads, int gave_up,
                 const kaws_error *err)
{
    kaws__flight *f = w->flight;
    size_t len = sizeof(kaws__kept) + w->len + KAWS__TAG;
    kaws__kept *k = NULL;
    int no_key = 0;

    if (f == NULL)
        return;
    if (leads && err->status == KAWS_OK)
        k = kaws__mem_new(s->hooks, len);
    kaws__thread_lock(&s->lock);
    if (k != NULL && s->page != NULL && f->epoch == s->epoch) {
        if ((no_key = !kaws__shield_keep(s, w, k)) != 0)
            kaws__shield_drop_page(s);
        else
            k = NULL;
    }
    if (leads) {
        f->led = 0;
        f->over = !gave_up;
        f->err = *err;
        KAWS__COND_WAKE_ALL(&s->landed);
    }
    kaws__shield_leave(s, w);
    kaws__thread_unlock(&s->lock);
    kaws__mem_free(s->hooks, k, len);
    if (no_key)
        kaws__err_log(s->hooks, KAWS__LOG_NO_PAGE_KEY);
}


/* ==========================================================================
 * ROOM  breaker  which hosts do not answer, so that few calls wait for them
 * ==========================================================================
 * Uses: sys thread err buf
 * Gives: breaker_join breaker_part breaker_ask breaker_out breaker_well
 *        breaker_end
 *
 * A host is well, or unreachable since a call to it ended in vain. To an
 * unreachable host one call at a time is sent, a probe; all others are refused
 * at once. Any reply but a 5xx makes the host well again, even a reply to a
 * call that began before the outage. Room calls says what counts as in vain.
 *
 * Calls overlap, so a failure may be old news. Each call gets a number when it
 * begins, and each reply gets one when it arrives: a failure counts only if no
 * reply has arrived since its call began.
 *
 * The state belongs to the process: a ring that is opened later, or another
 * thread, need not find out for itself. Rings share it only if they reach the
 * host in the same way: a wrong ca_file or proxy, or one's own hook, proves
 * nothing to others. (We know a hook by its address and ctx. Once all its rings
 * are closed, both may be reused for a different hook, so closing the last one
 * forgets their hosts.) The times are by ticks_ms: if it jumps, a probe is sent
 * sooner.
 *
 * A host that comes and goes all the time must not fill the log. So if an
 * outage begins soon after one that was logged, it gets no line, unless it
 * lasts. The next line says how many outages got none.
 */

enum {
    KAWS__BREAKER_HOSTS = 16,     /* if full, the one that was used longest ago
                                   * makes room, a well one first             */
    KAWS__BREAKER_LEAST =  250,   /* ms between probes, first                 */
    KAWS__BREAKER_MOST  = 5000,   /* and last                                 */
    KAWS__BREAKER_CALM  = 1000,   /* and last, while a server starts          */
    KAWS__BREAKER_BRIEF =  500,   /* a timeout below that proves nothing      */
    KAWS__BREAKER_LOST  = 5000,   /* a probe's timeout plus this: it is lost  */
    KAWS__BREAKER_QUIET = 10000   /* ms between outages that the log tells of */
};

typedef struct kaws__host {
    uint64_t way, url;            /* digests: how it is reached, and where    */
    uint64_t used, answered;      /* the numbers of its last use and reply    */
    uint64_t prober;              /* the call that is its probe, or 0         */
    int      prober_ms;           /* after which it counts as lost            */
    int      pause_ms;            /* between probes; 0: the host is well      */
    int64_t  since_ms, begun_ms, ended_ms;        /* outage; last probe       */
    unsigned long attempts, failed;       /* attempts in vain; failed calls   */
    int      told;                /* the log tells of this outage             */
    int64_t  told_ms;             /* when the log last told; 0: never         */
    unsigned long untold;         /* outages since then that got no line      */
    kaws_status status;
    char     why[200];            /* the last error                           */
} kaws__host;

typedef struct kaws__way {        /* how an open ring reaches its hosts       */
    uint64_t id;                  /* a digest                                 */
    struct kaws__way *next;
} kaws__way;

typedef struct kaws__pass {       /* what a call shows to this room           */
    const kaws_hooks *hooks;
    const char *host;             /* its name, for people                     */
    int      detour;              /* other regions may answer instead         */
    uint64_t way, url;
    int      connect_ms, timeout_ms;      /* of its operation                 */
    uint64_t begun;               /* its number; 0: it has none yet           */
    int      probes;              /* it is the host's probe                   */
    int64_t  before_ms;           /* when the probe before it began           */
} kaws__pass;

static struct {
    kaws__process_lock lock;      /* guards all below                         */
    uint64_t   order;             /* the last number that was given out       */
    kaws__host hosts[KAWS__BREAKER_HOSTS];
    kaws__way *ways;              /* of all open rings                        */
} kaws__breaker;


/* The way in which a ring reaches its hosts. */
static uint64_t
kaws__breaker_way(const kaws_hooks *hooks, const kaws_config *cfg)
{
    struct { kaws_hooks hooks; uint64_t ca, proxy; } by;

    memset(&by, 0, sizeof by);
    by.hooks.send = hooks->send;
    by.hooks.ticks_ms = hooks->ticks_ms;
    if (hooks->send != NULL || hooks->ticks_ms != kaws__sys_ticks_ms)
        by.hooks.ctx = hooks->ctx;
    if (hooks->send == NULL && cfg->ca_file != NULL)
        by.ca = kaws__buf_digest(kaws__buf_of(cfg->ca_file));
    if (cfg->proxy != NULL)
        by.proxy = kaws__buf_digest(kaws__buf_of(cfg->proxy));
    return kaws__buf_digest((kaws_bytes){ (const uint8_t *)&by, sizeof by });
}


/* Locks the state, until breaker_leave. A forked child begins with no state: no
 * hosts, and none of the ways of its parent's rings. */
static void
kaws__breaker_enter(void)
{
    if (kaws__thread_process_lock(&kaws__breaker.lock, KAWS__RANK_BREAKER)) {
        kaws__breaker.order = 0;
        memset(kaws__breaker.hosts, 0, sizeof kaws__breaker.hosts);
        kaws__breaker.ways = NULL;
    }
}


static void
kaws__breaker_leave(void)
{
    kaws__thread_process_unlock(&kaws__breaker.lock, KAWS__RANK_BREAKER);
}


/* A ring is opened. */
static void
kaws__breaker_join(kaws__way *way, const kaws_hooks *hooks,
                   const kaws_config *cfg)
{
    way->id = kaws__breaker_way(hooks, cfg);
    kaws__breaker_enter();
    way->next = kaws__breaker.ways;
    kaws__breaker.ways = way;
    kaws__breaker_leave();
}


/* A ring is closed. If its way depends on hooks, and it was the last ring of
 * that way, forgets what is known of its hosts. */
static void
kaws__breaker_part(kaws__way *way, const kaws_hooks *hooks)
{
    int i, last = hooks->send != NULL || hooks->ticks_ms != kaws__sys_ticks_ms;
    kaws__host *h = kaws__breaker.hosts;
    kaws__way **at;

    kaws__breaker_enter();
    for (at = &kaws__breaker.ways; *at != NULL; )
        if (*at == way) {
            *at = way->next;
        } else {
            last &= (*at)->id != way->id;
            at = &(*at)->next;
        }
    for (i = 0; i < KAWS__BREAKER_HOSTS; i++)
        if (last && h[i].way == way->id)
            memset(&h[i], 0, sizeof h[i]);
    kaws__breaker_leave();
}


/* With the lock held: the call's host. */
static kaws__host *
kaws__breaker_at(const kaws__pass *pass)
{
    kaws__host *h = kaws__breaker.hosts, *end = h + KAWS__BREAKER_HOSTS;
    kaws__host *oldest = h;

    for (; h < end && (h->url != pass->url || h->way != pass->way); h++)
        if ((h->pause_ms > 0) < (oldest->pause_ms > 0) ||
            ((h->pause_ms > 0) == (oldest->pause_ms > 0) &&
             h->used < oldest->used))
            oldest = h;
    if (h == end) {
        h = oldest;
        memset(h, 0, sizeof *h);
        h->way = pass->way;
        h->url = pass->url;
    }
    h->used = ++kaws__breaker.order;
    return h;
}


/* With the lock held: 0, or for how many ms the call has to wait. Calls with a
 * brief timeout let others probe first, because they may learn nothing. */
static int
kaws__breaker_wait_ms(const kaws__host *h, const kaws__pass *pass, int patient,
                      int64_t now)
{
    int64_t pause = h->pause_ms, due;

    if (h->pause_ms == 0 || now < h->begun_ms || now < h->ended_ms)
        return 0;
    if (h->prober != 0 && now - h->begun_ms < h->prober_ms)
        return KAWS__CANCEL_MS;
    if (patient && pause > KAWS__BREAKER_CALM)
        pause = KAWS__BREAKER_CALM;
    if (pass->timeout_ms < KAWS__BREAKER_BRIEF)
        pause += KAWS__BREAKER_LEAST;
    due = h->begun_ms + pause;
    if (due < h->ended_ms + KAWS__BREAKER_LEAST)
        due = h->ended_ms + KAWS__BREAKER_LEAST;
    return due > now ? (int)(due - now) : 0;
}


/* For how many seconds the host has been unreachable. */
static long
kaws__breaker_out_s(const kaws__host *h, int64_t now)
{
    return now > h->since_ms ? (long)((now - h->since_ms) / 1000) : 0;
}


/* Says why the call is not sent; `wait` is after how many ms it could be. */
static void
kaws__breaker_refuse(const kaws__host *h, const kaws__pass *pass,
                     const char *action, int wait, int64_t now, kaws_error *err)
{
    char due[48] = "an attempt is under way";

    if (h->prober == 0)
        (void)snprintf(due, sizeof due, "the next attempt is due in %d s",
                       (wait + 999) / 1000);
    (void)kaws__err_set(err, h->status, "AWS KMS at %s has been unreachable for"
                        " %ld s (%s attempt%s), so %s is not sent, and %s; "
                        "check the network and the health of AWS; the last "
                        "error was: %s", pass->host,
                        kaws__breaker_out_s(h, now), KAWS__COUNT(h->attempts),
                        action, due, h->why);
}


/* Whether the host is unreachable: then *err says so, and *due whether a probe
 * could be sent now. */
static int
kaws__breaker_out(const kaws__pass *pass, const char *action, int *due,
                  kaws_error *err)
{
    kaws__host host;
    int64_t now;
    int wait;

    kaws__breaker_enter();
    host = *kaws__breaker_at(pass);
    now = pass->hooks->ticks_ms(pass->hooks->ctx);
    wait = kaws__breaker_wait_ms(&host, pass, 0, now);
    kaws__breaker_leave();
    *due = wait == 0 && host.pause_ms > 0;
    if (host.pause_ms == 0)
        return 0;
    kaws__err_clear(err);
    kaws__breaker_refuse(&host, pass, action, wait, now, err);
    return 1;
}


/* Returns 0 if the call may be sent now. Otherwise returns how many ms to wait
 * before asking again, and *err says why. */
static int
kaws__breaker_ask(kaws__pass *pass, const char *action, int patient,
                  kaws_error *err)
{
    kaws__host host = { .pause_ms = 0 }, *h;
    int64_t now;
    int wait;

    kaws__breaker_enter();
    h = kaws__breaker_at(pass);
    now = pass->hooks->ticks_ms(pass->hooks->ctx);
    if (pass->begun == 0)
        pass->begun = ++kaws__breaker.order;
    if ((wait = kaws__breaker_wait_ms(h, pass, patient, now)) > 0) {
        host = *h;
    } else if (h->pause_ms > 0) {
        h->prober = pass->begun;
        h->prober_ms = pass->connect_ms + 1000 + KAWS__BREAKER_LOST;
        pass->probes = 1;
        pass->before_ms = h->begun_ms;
        h->begun_ms = now;
        if (h->ended_ms > now)            /* the clock was set back           */
            h->ended_ms = now;
    }
    kaws__breaker_leave();
    kaws__err_clear(err);
    if (wait > 0)
        kaws__breaker_refuse(&host, pass, action, wait, now, err);
    return wait;
}


/* The host has replied to the call. */
static void
kaws__breaker_well(kaws__pass *pass)
{
    unsigned long failed;
    long out_s = 0;
    kaws__host *h;
    int news;

    kaws__breaker_enter();
    h = kaws__breaker_at(pass);
    h->answered = ++kaws__breaker.order;
    if ((news = h->pause_ms > 0 && h->told) != 0)
        out_s = kaws__breaker_out_s(h, pass->hooks->ticks_ms(pass->hooks->ctx));
    h->untold += h->pause_ms > 0 && !h->told;
    failed = h->failed;
    h->pause_ms = 0;
    h->prober = 0;
    kaws__breaker_leave();
    pass->probes = 0;
    if (news)
        kaws__err_log(pass->hooks, KAWS__LOG_REACHABLE, pass->host,
                      out_s, KAWS__COUNT(failed));
}


/* With the lock held: returns whether the log has to tell of the outage now.
 * Then *untold is how many outages before it got no line. */
static int
kaws__breaker_tell(kaws__host *h, int64_t now, unsigned long *untold)
{
    if (h->pause_ms == 0 || h->told ||
        (h->told_ms != 0 && now >= h->told_ms &&
         now - h->told_ms < KAWS__BREAKER_QUIET))
        return 0;
    *untold = h->untold;
    h->untold = 0;
    h->told_ms = now;
    return h->told = 1;
}


/* The call is over. `attempts` of it were in vain; 0: its outcome says nothing
 * about the host. `failed`: it fails with NETWORK or SERVICE. If it was a probe
 * that learned nothing, the next call may be a probe at once; but if the probe
 * failed, calls with a brief timeout wait for 0.25 s. */
static void
kaws__breaker_end(kaws__pass *pass, unsigned attempts, int failed,
                  const kaws_error *err)
{
    kaws__host *h;
    int64_t now;
    unsigned long untold = 0;
    int probed, news, tell;
    char before[64] = "";

    kaws__breaker_enter();
    h = kaws__breaker_at(pass);
    now = pass->hooks->ticks_ms(pass->hooks->ctx);
    probed = pass->probes && h->prober == pass->begun;
    news = attempts > 0 && h->pause_ms == 0 && pass->begun > h->answered;
    if (probed)
        h->prober = 0;
    if (news) {
        h->since_ms = h->begun_ms = h->ended_ms = now;
        h->attempts = h->failed = 0;
        h->told = 0;
        h->pause_ms = KAWS__BREAKER_LEAST;
    } else if (probed && attempts > 0) {
        h->ended_ms = now;
        h->pause_ms = h->pause_ms < KAWS__BREAKER_MOST / 2 ? 2 * h->pause_ms
                                                           : KAWS__BREAKER_MOST;
    } else if (probed) {
        h->begun_ms = failed ? now - h->pause_ms : pass->before_ms;
    }
    if (h->pause_ms > 0 && attempts > 0) {
        h->attempts += attempts;
        h->status = err->status;
        (void)snprintf(h->why, sizeof h->why, "%.*s",
                       (int)sizeof h->why - 1, err->text);
    }
    h->failed += failed != 0;
    tell = attempts > 0 && kaws__breaker_tell(h, now, &untold);
    kaws__breaker_leave();
    pass->probes = 0;
    if (untold > 0)
        (void)snprintf(before, sizeof before, " again (and was %s time%s since "
                       "the last such line)", KAWS__COUNT(untold));
    if (tell)
        kaws__err_log(pass->hooks, KAWS__LOG_UNREACHABLE, pass->host, before,
                      pass->detour ? "go to other regions, or fail at once"
                      : "fail at once", err->text);
}


/* ==========================================================================
 * ROOM  op       an operation: its settings, its time, its credentials
 * ==========================================================================
 * Uses: thread err buf text http arn regions hosts sources profile native
 *        creds trust shield breaker
 * Gives: op_files op_open op_close op_set_timeouts op_stats op_first op_begin
 *        op_now op_left_ms op_cancelled op_seek op_creds op_doubt op_identity
 *
 * An operation is what a caller of the library asked for. It makes one call or
 * a few, and has a target, a time limit, and an error. This room also keeps
 * what all operations of a ring share.
 */

enum { KAWS__PROBE_DUE = 1, KAWS__CHECK_DUE = 2, KAWS__ANY_DUE = 3 };
enum { KAWS__CHECKED_MAX = 8 };   /* KMS keys, each with a check a day        */

typedef struct kaws__errand {
    int          what;            /* bits of the enum                         */
    kaws__target probed;          /* a multi-region key at home               */
    int          only;            /* the probe is for this region of the route,
                                   * counted from 1; 0: for home              */
    kaws__target checked;         /* the same, of the check                   */
} kaws__errand;

typedef struct kaws__away {       /* who answers now                          */
    int      region;              /* of the route, from 1; 0: home            */
    int      told;                /* which one the log says                   */
    char     home[KAWS__ARN_REGION_MAX + 1];  /* in whose place it answers    */
    int64_t  since_ms, told_ms, spilled_ms;   /* 0: never                     */
    int64_t  last_ms;             /* when it last answered, if it is not home */
    uint64_t before;              /* stats.failovers then                     */
    unsigned long untold;         /* changes since told_ms that got no line   */
} kaws__away;

typedef struct kaws__shared {
    const kaws_hooks *hooks;
    kaws__http  http;
    kaws__creds creds;
    kaws__trust trust;
    kaws__shield *shield;         /* emptied if a right has ended; or NULL    */
    kaws__hosts hosts;            /* of AWS KMS                               */
    int         max_attempts;     /* 0: see calls_spent                       */
    kaws__way   way;              /* how hosts are reached: see breaker       */
    kaws__regions regions;
    kaws__lock  lock;             /* guards all below                         */
    int         connect_timeout_ms, timeout_ms;
    int64_t     clock_offset_s;   /* AWS's clock less ours                    */
    unsigned    notes;            /* logged once: see op_first                */
    kaws_stats  stats;            /* those of KMS alone                       */
    kaws__away  away;
    kaws__errand errand;          /* due, or all zeros                        */
    struct {
        uint64_t key;             /* a digest of a multi-region key           */
        int64_t  ms;              /* when its last check was due; 0: never    */
    } checked[KAWS__CHECKED_MAX];
} kaws__shared;

typedef struct kaws__op {         /* an operation                             */
    kaws__shared *shared;         /* by all operations of the ring            */
    kaws_error  *err;             /* not NULL                                 */
    kaws__target target;          /* what seals                               */
    char        *trial;           /* not NULL: the operation tries a KMS key.
                                   * The ARN of the one that sealed goes there:
                                   * it may decrypt, but is not trusted yet   */
    int          connect_timeout_ms, timeout_ms;
    int64_t      begun_ms;        /* by hooks.ticks_ms                        */
    uint64_t     reply_id;        /* digest of the last request id, or 0      */
    int          entry;           /* the blob to decrypt is an entry's        */
    int          at_home;         /* no other region may answer               */
    int          only;            /* only this region of the route may, from 1;
                                   * 0: all                                   */
    int          aside;           /* it runs in the background: with little
                                   * time for an attempt, and no patience     */
    int          late;            /* it ended because its time was up         */
    kaws__cancel cancel;          /* who may end it                           */
    int          cancelled;       /* it was ended so                          */
} kaws__op;


/* Sets the timeouts; 0: the default. Warns if connecting may take longer than a
 * whole operation, but not about the default, nor again about the same values.
 */
static void
kaws__op_set_timeouts(kaws__shared *k, int connect_timeout_ms, int timeout_ms)
{
    int connect = connect_timeout_ms > 0 ? connect_timeout_ms : 1000, doubtful;
    int all = timeout_ms > 0 ? timeout_ms : 10000;

    if (connect > INT_MAX / 2)            /* we add to it                     */
        connect = INT_MAX / 2;
    kaws__thread_lock(&k->lock);
    doubtful = connect > all && connect != 1000 &&
               (connect != k->connect_timeout_ms || all != k->timeout_ms);
    k->connect_timeout_ms = connect;
    k->timeout_ms = all;
    kaws__thread_unlock(&k->lock);
    if (doubtful)
        kaws__err_log(k->hooks, KAWS__LOG_TIMEOUTS, connect, all);
}


/* Returns AWS's time in Unix seconds, as far as we know it. */
static int64_t
kaws__op_now(kaws__shared *k)
{
    int64_t now;

    kaws__thread_lock(&k->lock);
    now = k->hooks->now_ms(k->hooks->ctx) / 1000 + k->clock_offset_s;
    kaws__thread_unlock(&k->lock);
    return now;
}


/* Finds out where the credentials come from. */
static kaws_status
kaws__op_open_creds(kaws__shared *k, const kaws_config *cfg, kaws_error *err)
{
    const char *auth = cfg->auth != NULL ? cfg->auth : "file";
    kaws__sources *const s = &k->creds.sources;
    kaws_status status = kaws__creds_open(&k->creds, k->hooks, cfg->conf_file,
                                          err);

    if (status != KAWS_OK)
        return status;
    s->hosts = k->hosts;
    if (strcmp(auth, "native") != 0 && strcmp(auth, "file") != 0)
        return kaws__err_set(err, KAWS_CONFIG, "auth is '%s', and has to be "
                             "'file' or 'native'",
                             KAWS__SHOW(kaws__buf_of(auth)));
    if (*auth == 'n' || cfg->role_arn != NULL ||
        cfg->role_external_id != NULL || cfg->role_session_name != NULL)
        status = kaws__native_open(s, cfg, *auth == 'n', err);
    return status;
}


/* Leaves in the config those files that credentials are read from. */
static void
kaws__op_files(const kaws__shared *k, kaws_config *cfg)
{
    const kaws__sources *s = &k->creds.sources;

    cfg->config_file = cfg->credentials_file = NULL;
    if (!s->native)
        return;
    cfg->conf_file = NULL;
    cfg->config_file = kaws__profile_path(s, KAWS__CONFIG_FILE);
    cfg->credentials_file = kaws__profile_path(s, KAWS__CREDENTIALS_FILE);
}


/* Reads the credentials. Without must_have_creds, does not ask the program's
 * hook, and does nothing if there is neither a conf file nor "native". If the
 * source fails, the ring opens all the same, with a warning, because most of
 * what it does needs no credentials; with must_have_creds, it opens only if the
 * source may be reached later. */
static kaws_status
kaws__op_first_creds(kaws__shared *k, const kaws_config *cfg, kaws_error *err)
{
    const kaws__choice *const now = &k->trust.now;    /* no other thread  */
    kaws__seek seek = { .now = kaws__op_now(k), .left_ms = k->timeout_ms,
                        .http = &k->http,
                        .region = kaws__trust_region(now),
                        .cancel = KAWS__CANCEL_BY(k->hooks) };
    kaws_status status;

    if (!cfg->must_have_creds &&
        (k->hooks->creds != NULL || (cfg->conf_file == NULL &&
                                     !k->creds.sources.native)))
        return KAWS_OK;
    status = kaws__creds_ready(&k->creds, &seek, KAWS__TO_TELL, err);
    if (status == KAWS_OK || status == KAWS_CANCELLED ||
        (cfg->must_have_creds && !kaws__creds_may_pass(err)))
        return status;
    kaws__err_log(k->hooks, KAWS__LOG_NO_CREDS, err->text);
    kaws__err_clear(err);
    return KAWS_OK;
}


/* Whether a host may be asked over plain HTTP, which is on this machine. */
static int
kaws__op_plain(const kaws__shared *k)
{
    const char *const url = k->hosts.kms;
    int i, plain = url != NULL && strncmp(url, "http:", 5) == 0;

    for (i = 0; i < k->regions.count; i++)
        plain |= strncmp(k->regions.to[i].endpoint, "http:", 5) == 0;
    return plain;
}


/* *k is all zeros before. Close it even if this fails. The config's strings are
 * borrowed for as long as it stays open. */
static kaws_status
kaws__op_open(kaws__shared *k, const kaws_hooks *hooks, const kaws_config *cfg,
              kaws_error *err)
{
    const kaws__choice *const now = &k->trust.now;    /* no other thread  */
    kaws_status status;

    if ((status = kaws__trust_open(&k->trust, hooks, cfg, err)) != KAWS_OK ||
        (status = kaws__hosts_open(&k->hosts, hooks, cfg, &k->regions,
                                   err)) != KAWS_OK ||
        (status = kaws__regions_open(&k->regions, cfg->failover_regions,
                                     kaws__trust_region(now), err)) !=
        KAWS_OK || (status = kaws__regions_suit(&k->regions, now->target.key_id,
                                                err)) != KAWS_OK)
        return status;
    if (kaws__thread_lock_init(&k->lock, KAWS__RANK_CALLS) != 0)
        return kaws__err_memory(err, "making a lock for AWS KMS");
    k->hooks = hooks;
    k->max_attempts = cfg->max_attempts > 0 ? cfg->max_attempts : 0;
    kaws__breaker_join(&k->way, hooks, cfg);
    kaws__op_set_timeouts(k, cfg->connect_timeout_ms, cfg->timeout_ms);
    status = kaws__op_open_creds(k, cfg, err);
    if (status == KAWS_OK)
        status = kaws__http_open(&k->http, hooks, cfg, kaws__op_plain(k), err);
    if (status == KAWS_OK)
        status = kaws__op_first_creds(k, cfg, err);
    return status;
}


static void
kaws__op_close(kaws__shared *k)
{
    if (k->hooks != NULL)
        kaws__breaker_part(&k->way, k->hooks);
    kaws__http_close(&k->http);
    kaws__creds_close(&k->creds);
    kaws__trust_close(&k->trust);
    kaws__thread_lock_free(&k->lock);
}


/* Fills in KMS's figures; all others are 0. */
static void
kaws__op_stats(kaws__shared *k, kaws_stats *stats)
{
    kaws__choice now;
    const char *home;

    (void)kaws__trust_choice(&k->trust, NULL, NULL, &now, NULL);
    home = kaws__trust_region(&now);
    kaws__thread_lock(&k->lock);
    *stats = k->stats;
    if (k->away.region > 0 && (now.target.key_id[0] == '\0' ||
                               strcmp(k->away.home, home) == 0))
        home = k->regions.to[k->away.region - 1].region;
    (void)kaws__buf_copy_text(stats->region_in_use,
                              sizeof stats->region_in_use, kaws__buf_of(home));
    kaws__thread_unlock(&k->lock);
}


/* Warns of settings that can be used, but are probably mistakes. A default
 * region that differs from the ARN's is no mistake. */
static void
kaws__op_doubt(kaws__shared *k)
{
    const kaws_hooks *h = k->hooks;
    const kaws__choice *now = &k->trust.now;
    const char *id = now->target.key_id;
    const char *used = kaws__trust_region(now);
    int i;

    kaws__hosts_doubt_all(&k->hosts, h, used);
    if (!kaws__arn_is_known(used))
        kaws__err_log(h, KAWS__LOG_NEW_REGION, used);
    for (i = 0; i < k->regions.count; i++)
        if (!kaws__arn_is_known(k->regions.to[i].region))
            kaws__err_log(h, KAWS__LOG_NEW_REGION, k->regions.to[i].region);
    if (strcmp(used, now->region) != 0 && strcmp(now->region, "us-east-1") != 0)
        kaws__err_log(h, KAWS__LOG_REGION, now->region, used,
                      kaws__arn_partition(used) ==
                      kaws__arn_partition(now->region)
                      ? "" : ", a different partition of AWS");
    if (*id != '\0' && strlen(id) < 36 && strchr(id, '/') == NULL)
        kaws__err_log(h, KAWS__LOG_KEY_ID, id);
    if (*id != '\0' && k->regions.count == 1 &&
        strcmp(k->regions.to[0].region, used) == 0)
        kaws__err_log(h, KAWS__LOG_NO_OTHER, used);
}


/* As whom, and where, the ring asks AWS KMS. Returns the end of the access key
 * id for a log. */
static const char *
kaws__op_identity(kaws__shared *k, kaws_identity *out)
{
    kaws__choice now;

    (void)kaws__trust_choice(&k->trust, NULL, NULL, &now, NULL);
    memcpy(out->region, kaws__trust_region(&now), sizeof out->region);
    kaws__hosts_url(&k->hosts, out->endpoint, sizeof out->endpoint, "kms",
                    out->region, 1);
    kaws__trust_own(&k->trust, out->account);
    return kaws__creds_tell(&k->creds, out);
}


/* Whether the line with that bit is logged for the first time. */
static int
kaws__op_first(kaws__shared *k, unsigned bit)
{
    unsigned before;

    kaws__thread_lock(&k->lock);
    before = k->notes;
    k->notes |= bit;
    kaws__thread_unlock(&k->lock);
    return (before & bit) == 0;
}


/* Begins an operation with the current KMS key, and starts its time. err is not
 * NULL. */
static kaws__op
kaws__op_begin(kaws__shared *k, kaws_error *err)
{
    kaws__op op = { .shared = k, .err = err,
                    .cancel = KAWS__CANCEL_BY(k->hooks) };
    kaws__choice now;

    op.begun_ms = k->hooks->ticks_ms(k->hooks->ctx);
    (void)kaws__trust_choice(&k->trust, NULL, NULL, &now, NULL);
    op.target = now.target;
    memcpy(op.target.region, kaws__trust_region(&now), sizeof op.target.region);
    kaws__thread_lock(&k->lock);
    op.connect_timeout_ms = k->connect_timeout_ms;
    op.timeout_ms = k->timeout_ms;
    kaws__thread_unlock(&k->lock);
    return op;
}


/* Returns how much time the operation has left: never less than 0 or more than
 * all of it, even if the clock jumps. */
static int
kaws__op_left_ms(const kaws__op *op)
{
    const kaws_hooks *hooks = op->shared->hooks;
    int64_t took = hooks->ticks_ms(hooks->ctx) - op->begun_ms;

    took = took < 0 ? 0 : took < op->timeout_ms ? took : op->timeout_ms;
    return op->timeout_ms - (int)took;
}


/* Whether the operation was cancelled. The hook may say so only once, so we
 * remember it. */
static int
kaws__op_cancelled(void *arg)
{
    kaws__op *op = arg;

    return op->cancelled = op->cancelled || op->cancel.asked(op->cancel.arg);
}


/* Returns what the operation tells a source of credentials. AWS STS is asked in
 * that region. */
static kaws__seek
kaws__op_seek(kaws__op *op, const char *region)
{
    kaws__seek seek = { .now = kaws__op_now(op->shared),
                        .left_ms = kaws__op_left_ms(op),
                        .http = &op->shared->http,
                        .region = region };

    if (op->cancel.asked != NULL)
        seek.cancel = (kaws__cancel){ kaws__op_cancelled, op };
    return seek;
}


/* Makes sure that there are credentials that are good for `need`. */
static kaws_status
kaws__op_creds(kaws__op *op, int need, const char *region)
{
    kaws__seek seek = kaws__op_seek(op, region);

    return kaws__creds_ready(&op->shared->creds, &seek, need, op->err);
}


/* ==========================================================================
 * ROOM  route    to which region a call goes, if its own does not answer
 * ==========================================================================
 * Uses: thread err buf json url arn regions hosts sources trust fault breaker
 *        op
 * Gives: route_take route_find route_choose route_sts_region route_asks_sts
 *        route_is_theirs route_settle route_share route_next route_leave
 *        route_note route_errand
 *
 * A call for a multi-region key has a route: the KMS key's own region, its
 * home, and then the failover regions. The call goes home first. If home does
 * not answer, it goes to the next region whose host is well, and so on; that is
 * a round. What another region refuses says nothing about the KMS key: its
 * replica may be missing, or have a policy of its own. So the caller gets
 * home's error, which may pass, and only its text tells of the refusal.
 *
 * While others answer in home's place, no caller should wait for the probe that
 * finds home well again. So this room only notes that a probe, or a check of
 * the other regions, is due: an errand, which room scout runs.
 */

#define KAWS__ROUTE_HOST        176   /* bytes of a host with its port        */
#define KAWS__ROUTE_SHORT       500   /* beyond connecting, in ms: an attempt
                                       * while another region is well         */
#define KAWS__ROUTE_LEAST        50   /* ms left, or no other round begins: in
                                       * less time home could say nothing     */
#define KAWS__ROUTE_QUIET     10000   /* ms between lines that home is away   */
#define KAWS__ROUTE_HOUR    3600000
#define KAWS__ROUTE_DAY    86400000   /* ms between checks of the regions     */

typedef struct kaws__action {
    const char *name;             /* "Decrypt"                                */
    const char *key;              /* the member that names the KMS key        */
    int         flags;
    const char *members[4];       /* what is read from a reply of 200; none:
                                   * its body is ignored                      */
} kaws__action;

enum {
    KAWS__UNREPEATED = 1,         /* sent again only if AWS throttled it      */
    KAWS__APART      = 2,         /* it gets a connection of its own          */
    KAWS__DRY        = 4,         /* DryRunOperation is its success           */
    KAWS__OPENS      = 8,         /* it sends a blob, which may not fit       */
    KAWS__LEARNS     = 16         /* its reply tells the own account          */
};

typedef struct kaws__call {
    kaws__op     *op;
    const kaws__action *action;
    const kaws__target *home, *target;    /* the KMS key in its own region, and
                                           * where the call goes              */
    int           places, place;  /* of its route besides home; 0: home       */
    int           later;          /* of those after this one, how many are well
                                   */
    int           last;           /* those that are well were of no use: it may
                                   * be the probe of one that is not          */
    int           tries;          /* attempts here                            */
    int           first_cures, settled;   /* settled: the error is composed   */
    int           asked;          /* home was                                 */
    size_t        key_at, key_room;       /* the KMS key's name in the body   */
    char         *host;           /* in host_line                             */
    kaws__buf     body;
    size_t        secret_at, secret_len;      /* the plaintext in the body    */
    char          url[KAWS__URL_MAX], host_line[KAWS__ROUTE_HOST + 8];
    char          action_line[80];
    char          date_line[40], token_line[KAWS__SOURCES_TOKEN_MAX + 32];
    char          authorization[512];         /* last three: new each attempt */
    const char   *headers[8];
    unsigned      generation, told;       /* of the credentials               */
    int64_t       signed_at;
    kaws_request  q;
    kaws_reply    r;
    kaws__member  want[4];
    size_t        wanted;
    void         *lent;           /* the connection, until the reply is judged*/
    int           clean, doubtful;        /* the connection may be used again;
                                   * the next attempt needs a new one         */
    int           typed, cures;   /* what was wrong with the reply            */
    int           unsent;         /* there were no credentials to sign with   */
    int           attempt, clock_mended, creds_renewed;   /* attempts so far  */
    int           throttled;      /* of these attempts                        */
    int64_t       paused_ms;      /* between them, whatever the clock says    */
    int           left_ms;        /* time left when the last attempt began    */
    kaws__pass    pass;
    int           probe_ms;       /* which a probe may take                   */
    unsigned      vain;           /* attempts since the host replied          */

    /* Of use only with a route, which most calls do not have. Nothing here is
     * secret. So it is not cleared, except first.status, and not wiped. */
    kaws_error    first;          /* home's, when the call went elsewhere     */
    kaws__target  there;          /* *target, if that is not home             */
    char          multi[KAWS__ARN_MAX + 1];   /* names the key elsewhere      */
    unsigned char order[KAWS__REGIONS_MAX];   /* its places in the list       */
} kaws__call;


/* The region of that place of the route (0: home). */
static const char *
kaws__route_region(const kaws__call *c, int at)
{
    return at == 0 ? c->home->region
         : c->op->shared->regions.to[c->order[at - 1]].region;
}


/* Writes the URL of that place, and its host. Returns what the call shows to
 * room breaker there. */
static kaws__pass
kaws__route_pass(const kaws__call *c, int at, char url[KAWS__URL_MAX],
                 char host[KAWS__ROUTE_HOST])
{
    const kaws__op *op = c->op;
    kaws__pass pass = { .hooks = op->shared->hooks, .host = host,
                        .detour = c->places > 0 || op->aside,
                        .way = op->shared->way.id,
                        .connect_ms = op->connect_timeout_ms,
                        .timeout_ms = op->timeout_ms };

    kaws__hosts_url(&op->shared->hosts, url, KAWS__URL_MAX, "kms",
                    kaws__route_region(c, at), at == 0);
    pass.url = kaws__buf_digest(kaws__url_origin(url));
    url = strstr(url, "//") + 2;
    (void)snprintf(host, KAWS__ROUTE_HOST, "%.*s", (int)strcspn(url, "/"), url);
    /* A brief connect timeout: only rings with the same one share the state. */
    if (op->connect_timeout_ms < KAWS__BREAKER_BRIEF)
        pass.url += (uint64_t)op->connect_timeout_ms;
    return pass;
}


/* Whether the host of that place is unreachable. */
static int
kaws__route_out(const kaws__call *c, int at, int *due, kaws_error *err)
{
    char url[KAWS__URL_MAX], host[KAWS__ROUTE_HOST];
    const kaws__pass pass = kaws__route_pass(c, at, url, host);

    return kaws__breaker_out(&pass, c->action->name, due, err);
}


/* Sends the call to that place of its route. The KMS key's ARN differs there,
 * so the body has room to name it. */
static void
kaws__route_take(kaws__call *c, int at)
{
    size_t n;

    c->place = at;
    c->tries = c->settled = 0;
    c->target = c->home;
    if (at > 0) {
        kaws__arn_move(&c->there, c->multi, kaws__route_region(c, at));
        c->target = &c->there;
    }
    c->pass = kaws__route_pass(c, at, c->url, c->host);
    n = strlen(c->target->key_id);
    if (c->key_room >= n + 2 && !c->body.failed) {
        uint8_t *name = c->body.at + c->key_at;
        memset(name, ' ', c->key_room);
        name[0] = name[n + 1] = '"';
        memcpy(name + 1, c->target->key_id, n);
    }
}


/* Finds the other regions that may answer. `elsewhere` names the KMS key there;
 * NULL: the target does or, if that is an alias, the KMS key that it meant when
 * it last sealed. */
static void
kaws__route_find(kaws__call *c, const char *elsewhere)
{
    kaws__shared *k = c->op->shared;
    char sealed[KAWS__ARN_MAX + 1];
    int i;

    if (k->regions.count == 0 || c->op->at_home)
        return;
    kaws__trust_sealed(&k->trust, c->home, sealed);
    if (elsewhere == NULL)
        elsewhere = kaws__arn_is_multi(c->home->key_id) ? c->home->key_id
                                                        : sealed;
    if (!kaws__arn_is_multi(elsewhere) ||
        strlen(elsewhere) + KAWS__ARN_REGION_MAX >= sizeof c->multi)
        return;
    memcpy(c->multi, elsewhere, strlen(elsewhere) + 1);
    for (i = 0; i < k->regions.count; i++)
        if (kaws__regions_serves(&k->regions, i, c->home->region) &&
            (c->op->only == 0 || c->op->only == i + 1))
            c->order[c->places++] = (unsigned char)i;
}


/* With the lock held: notes that room scout has something to do. */
static void
kaws__route_post(const kaws__call *c, int what, kaws__target *about)
{
    kaws__errand *e = &c->op->shared->errand;

    memcpy(about->key_id, c->multi, sizeof c->multi);
    memcpy(about->region, c->home->region, sizeof about->region);
    kaws__thread_poke(&e->what, e->what | what);
}


/* A probe of that place is due. A later one replaces an earlier one that room
 * scout has not taken yet. */
static void
kaws__route_probe_due(const kaws__call *c, int at)
{
    kaws__shared *k = c->op->shared;

    if (c->op->aside)
        return;
    kaws__thread_lock(&k->lock);
    k->errand.only = at > 0 ? c->order[at - 1] + 1 : 0;
    kaws__route_post(c, KAWS__PROBE_DUE, &k->errand.probed);
    kaws__thread_unlock(&k->lock);
}


/* Counts how many of the places after this one are well. With `post`, room
 * scout is to probe one that is not, because that may be old news. */
static void
kaws__route_look_on(kaws__call *c, int post)
{
    kaws_error spare;
    int at, due;

    c->later = 0;
    for (at = c->place + 1; at <= c->places; at++) {
        c->later += !kaws__route_out(c, at, &due, &spare);
        if (due && post)
            kaws__route_probe_due(c, at);
    }
}


/* No place is well, or none that helps: the call is the probe of the first one
 * whose probe is due. Returns 0, or how many ms to wait; then the call is at
 * home, and the error is home's. */
static int
kaws__route_probe(kaws__call *c, int patient)
{
    const int from = c->op->only > 0;
    kaws_error *err = c->op->err;
    int at, some, wait = INT_MAX;

    c->later = 0;
    for (at = from; at <= c->places; at++) {
        kaws__route_take(c, at);
        some = kaws__breaker_ask(&c->pass, c->action->name, patient, err);
        if (some == 0)
            return 0;
        if (at == 0 && c->first.status == KAWS_OK) {      /* just now         */
            c->first = *err;
            c->first_cures = KAWS__LATER;
        }
        wait = some < wait ? some : wait;
    }
    kaws__route_take(c, from);
    if (c->first.status != KAWS_OK)
        *err = c->first;
    return wait;
}


/* Sends the call on, from its place, to the first one whose host is well; see
 * route_probe for what it returns. */
static int
kaws__route_choose(kaws__call *c, int patient)
{
    kaws_error spare;
    int at = c->place, wait, due, probe = -1;

    if (c->places == 0)
        return kaws__breaker_ask(&c->pass, c->action->name, patient,
                                 c->op->err);
    for (; at <= c->places && kaws__route_out(c, at, &due, &spare); at++) {
        if (at == 0) {
            c->first = spare;
            c->first_cures = KAWS__LATER;
        }
        if (due && c->last)
            break;
        if (due && probe < 0)
            probe = at;
    }
    if (at > c->places)
        return kaws__route_probe(c, patient);
    if (at != c->place)
        kaws__route_take(c, at);
    if (probe >= 0)
        kaws__route_probe_due(c, probe);
    wait = kaws__breaker_ask(&c->pass, c->action->name, patient, c->op->err);
    kaws__route_look_on(c, probe < 0);
    return wait == 0 ? 0 : kaws__route_probe(c, patient);
}


/* The region in which AWS STS is asked for the call. */
static const char *
kaws__route_sts_region(const kaws__call *c)
{
    return c->place > 0 ? c->target->region : c->op->target.region;
}


/* Whether the source of the credentials may be AWS STS in the region that the
 * call goes to: then each region has an answer of its own. */
static int
kaws__route_asks_sts(const kaws__call *c)
{
    const kaws__sources *s = &c->op->shared->creds.sources;

    return s->hosts.sts == NULL && (s->native || s->then != NULL);
}


/* Whether the error is what a region said in home's place, and not our own. */
static int
kaws__route_is_theirs(const kaws__call *c)
{
    const kaws_status got = c->op->err->status;

    return c->place > 0 && got != KAWS_OK && got != KAWS_CANCELLED &&
           got != KAWS_MEMORY && got != KAWS_CONFIG &&
           (!c->unsent || got != KAWS_CREDENTIALS || kaws__route_asks_sts(c));
}


/* What a region said in home's place becomes home's error, with its words in
 * the text, and it may pass as home's may. If the text is too long, home's
 * words are cut: only the others say what to do. */
static void
kaws__route_settle(kaws__call *c)
{
    kaws_error *err = c->op->err, theirs = *err;
    int most = (int)(sizeof theirs.text - strlen(theirs.text)) - 90;

    if (c->settled || c->first.status == KAWS_OK || !kaws__route_is_theirs(c))
        return;
    c->settled = 1;
    c->cures = c->first_cures | (c->cures & KAWS__SLOWER);
    *err = c->first;
    most = most > 60 ? most : 60;
    (void)kaws__err_set(err, c->first.status, "%.*s; and %s could not answer "
                        "in its place: %s", most, c->first.text,
                        c->target->region, theirs.text);
}


/* How long an attempt may take while other regions could answer: little more
 * than connecting, and no more than its part of the time. */
static int
kaws__route_share(const kaws__call *c, int left)
{
    int most = c->op->connect_timeout_ms + KAWS__ROUTE_SHORT;
    int part = left / (c->later + 1);

    part = part < most ? part : most;
    return part > 1 ? part : 1;
}


/* The next place of the route whose host is well; or home, if its probe is due:
 * it may have been well for hours, and the others refuse the call. -1: there is
 * none. */
static int
kaws__route_next(kaws__call *c)
{
    kaws_error spare;
    int at, due;

    for (at = c->place + 1; at <= c->places; at++) {
        if (!kaws__route_out(c, at, &due, &spare))
            return at;
        if (due)
            kaws__route_probe_due(c, at);
    }
    if (c->last || c->op->only > 0 ||
        kaws__op_left_ms(c->op) < KAWS__BREAKER_BRIEF)
        return -1;
    if (!kaws__route_out(c, 0, &due, &spare))
        due = !c->asked;                  /* it has come back just now        */
    c->last = due;
    return due ? 0 : -1;
}


/* The call leaves its region. */
static void
kaws__route_leave(kaws__call *c)
{
    const kaws_error *err = c->op->err;
    int failed = !c->unsent && (err->status == KAWS_NETWORK ||
                                err->status == KAWS_SERVICE);

    if (failed || c->pass.probes)
        kaws__breaker_end(&c->pass, failed ? c->vain : 0, 0, err);
    c->pass.begun = c->vain = 0;
    if (c->place == 0) {
        c->first = *err;
        c->first_cures = c->cures;
        c->asked = 1;
    }
    kaws__route_settle(c);
}


/* Home is well: once a day the other regions are checked, for each KMS key,
 * because each has replicas of its own. A check that room scout has not taken
 * yet goes first. */
static void
kaws__route_check_due(kaws__call *c, int64_t now)
{
    kaws__shared *k = c->op->shared;
    const uint64_t key = kaws__buf_digest(kaws__buf_of(strstr(c->multi,
                                                              "mrk-"))) +
                         kaws__buf_digest(kaws__buf_of(c->home->region));
    int i, at = 0;

    kaws__thread_lock(&k->lock);
    for (i = 0; i < KAWS__CHECKED_MAX && k->checked[at].key != key; i++)
        if (k->checked[i].key == key || k->checked[i].ms < k->checked[at].ms)
            at = i;
    if (!(k->errand.what & KAWS__CHECK_DUE) &&
        (k->checked[at].ms == 0 || now < k->checked[at].ms ||
         now - k->checked[at].ms >= KAWS__ROUTE_DAY)) {
        k->checked[at].key = key;
        k->checked[at].ms = now != 0 ? now : 1;
        kaws__route_post(c, KAWS__CHECK_DUE, &k->errand.checked);
    }
    kaws__thread_unlock(&k->lock);
}


/* Logs that the region that answers is a different one. `was` is how it was
 * before, with how often other regions have answered since home is away. */
static void
kaws__route_tell(const kaws__call *c, const kaws__away *was, int64_t now)
{
    const kaws_hooks *hooks = c->op->shared->hooks;
    char before[64] = "";

    if (was->untold > 0)
        (void)snprintf(before, sizeof before, " again (and %s time%s since the "
                       "last such line)", KAWS__COUNT(was->untold));
    if (c->place > 0)
        kaws__err_log(hooks, KAWS__LOG_AWAY, c->target->region, c->home->region,
                      before, c->first.text);
    else
        kaws__err_log(hooks, KAWS__LOG_HOME, c->home->region,
                      now > was->since_ms ? (long)((now - was->since_ms) / 1000)
                                          : 0, KAWS__COUNT(was->before));
}


/* With the lock held: that region answers now. Returns whether the log has to
 * tell that. A line that home is away may have to wait, and comes then if home
 * is still away. */
static int
kaws__route_turn(kaws__away *a, const char *home, int at, uint64_t failovers,
                 int64_t now)
{
    const int changed = a->region != at;
    const int tell = a->told != at &&
                     (at == 0 || a->told_ms == 0 || now < a->told_ms ||
                      now - a->told_ms >= KAWS__ROUTE_QUIET);

    if (changed && a->region == 0) {
        memcpy(a->home, home, strlen(home) + 1);
        a->since_ms = now;
        a->before = failovers - 1;
    }
    a->region = at;
    a->last_ms = now;
    if (tell)
        a->told = at;
    if (tell && at > 0) {
        a->told_ms = now;
        a->untold = 0;
    } else if (changed && at > 0)
        a->untold++;
    return tell;
}


/* Logs, once an hour, that home answers, and yet another region has to answer
 * in its place. (If home has just come back, there is nothing to tell.) */
static void
kaws__route_spill(const kaws__call *c, int64_t now)
{
    const int throttled = c->first.status == KAWS_THROTTLED;
    kaws__shared *k = c->op->shared;
    kaws__away *a = &k->away;
    int tell;

    kaws__thread_lock(&k->lock);
    tell = c->asked && (a->spilled_ms == 0 || now < a->spilled_ms ||
                        now - a->spilled_ms >= KAWS__ROUTE_HOUR);
    if (tell)
        a->spilled_ms = now != 0 ? now : 1;
    kaws__thread_unlock(&k->lock);
    if (tell)
        kaws__err_log(k->hooks, KAWS__LOG_SPILLED, c->home->region, throttled
                      ? "throttles requests" : "does not answer some requests",
                      c->target->region, throttled
                      ? "ask AWS for a higher quota" : c->first.text);
}


/* Home or, in its place, another region has answered. What home throttles, the
 * others answer, too, but home is not away then. If KMS keys have different
 * homes, and one of these is away, we tell of no other. But if nobody has
 * needed that one's keys for an hour, it is forgotten: a re-wrap may have left
 * none. */
static void
kaws__route_note(kaws__call *c)
{
    kaws__shared *k = c->op->shared;
    kaws__away *a = &k->away, was;
    kaws_error spare;
    int due, at = c->place > 0 ? c->order[c->place - 1] + 1 : 0;
    int spills = at > 0 && !kaws__route_out(c, 0, &due, &spare), tell = 0;
    const int64_t now = k->hooks->ticks_ms(k->hooks->ctx);

    if (c->op->aside)
        return;
    if (at == 0 && c->places > 0)
        kaws__route_check_due(c, now);
    kaws__thread_lock(&k->lock);
    k->stats.failovers += at > 0;
    if (now - a->last_ms >= KAWS__ROUTE_HOUR &&
        strcmp(a->home, c->home->region) != 0)
        a->region = a->told = 0;
    was = *a;
    was.before = k->stats.failovers - a->before;
    if (a->region == at && at > 0 && a->untold > 0)
        was.untold--;                     /* this one                         */
    if (!spills && (a->region == 0 || strcmp(a->home, c->home->region) == 0))
        tell = kaws__route_turn(a, c->home->region, at, k->stats.failovers,
                                now);
    kaws__thread_unlock(&k->lock);
    if (spills)
        kaws__route_spill(c, now);
    if (tell)
        kaws__route_tell(c, &was, now);
}


/* What is due in the background, of these kinds, and nobody has taken yet. */
static kaws__errand
kaws__route_errand(kaws__shared *k, int kinds)
{
    kaws__errand errand;

    kaws__thread_lock(&k->lock);
    errand = k->errand;
    errand.what &= kinds;
    kaws__thread_poke(&k->errand.what, k->errand.what & ~kinds);
    kaws__thread_unlock(&k->lock);
    return errand;
}


/* ==========================================================================
 * ROOM  calls    one request to AWS, until it succeeds, is refused or times out
 * ==========================================================================
 * Uses: sys thread err mem buf text json sigv4 http arn sources creds fault
 *        shield breaker op route
 * Gives: calls_begin calls_send calls_nonsense calls_end
 *
 * A call is one request with all its attempts. For each attempt it is signed
 * and sent, and the reply is judged. If an attempt fails, but another may help,
 * and the operation has time, we mend the clock or the credentials, go to
 * another region, or pause, and send the call again. This room knows no action
 * of KMS: its caller writes the members of the body, and judges the members of
 * the reply.
 *
 * A connection is used again only if all that is known of the reply fits the
 * request. So a call counts as clean only once its reply has been read. A
 * caller that finds a fault in the reply later revokes that (calls_nonsense).
 */

#define KAWS__CALLS_REPLY_MAX 16384   /* KMS's longest replies have 12 KB     */
#define KAWS__CALLS_SPACES     4096   /* behind a body with a plaintext       */

enum { KAWS__PATIENT = 1024 };    /* a cure: the source of the credentials may
                                   * be reached later, if there is patience   */

/* Begins a call. The caller then writes the other members of its body. *target
 * is borrowed for as long as the call lasts. For `elsewhere` see route_find.
 */
static void
kaws__calls_begin(kaws__call *c, kaws__op *op, const kaws__action *action,
                  const kaws__target *target, const char *elsewhere)
{
    size_t longest;

    memset(c, 0, offsetof(kaws__call, first));
    c->first.status = KAWS_OK;
    c->op = op;
    c->action = action;
    c->home = target;
    c->host = c->host_line + snprintf(c->host_line, sizeof c->host_line,
                                      "Host: ");
    for (; c->wanted < 4 && action->members[c->wanted] != NULL; c->wanted++)
        c->want[c->wanted].name = action->members[c->wanted];
    (void)snprintf(c->action_line, sizeof c->action_line,
                   "X-Amz-Target: TrentService.%s", action->name);
    c->headers[0] = c->host_line;
    c->headers[1] = "Content-Type: application/x-amz-json-1.1";
    c->headers[2] = c->action_line;
    c->headers[3] = c->date_line;
    kaws__route_find(c, elsewhere);
    kaws__buf_init(&c->body, op->shared->hooks);
    kaws__json_begin(&c->body);
    kaws__json_name(&c->body, action->key);
    c->key_at = c->body.len;
    kaws__json_string(&c->body, kaws__buf_of(target->key_id));
    if (c->places > 0) {
        longest = strlen(c->multi) + KAWS__ARN_REGION_MAX + 2;
        c->key_room = c->body.len - c->key_at;
        if (longest > c->key_room)
            (void)kaws__buf_grow(&c->body, longest - c->key_room);
        c->key_room = longest > c->key_room ? longest : c->key_room;
    }
    kaws__route_take(c, op->only > 0 && c->places > 0 ? 1 : 0);
}


/* Gives the connection back once the reply is judged, and tells room http
 * whether it may be used again. */
static void
kaws__calls_judged(kaws__call *c)
{
    kaws__http_done(&c->op->shared->http, c->lent,
                    c->clean && !(c->action->flags & KAWS__APART));
    c->doubtful = !c->clean;
    c->lent = NULL;
    c->clean = 0;
}


/* Ends a call, and wipes all that is secret in it. Returns the status of the
 * operation's error. */
static kaws_status
kaws__calls_end(kaws__call *c)
{
    kaws__shared *k = c->op->shared;
    kaws_error *err = c->op->err;

    kaws__route_settle(c);
    kaws__calls_judged(c);
    kaws__http_forget(&k->http, &c->r);
    kaws__mem_drop(k->hooks, c->r.body, KAWS__CALLS_REPLY_MAX);
    kaws__buf_free(&c->body);
    kaws_wipe(c, offsetof(kaws__call, first));
    return err->status;
}


/* Makes sure that there are credentials, and signs the request with the current
 * time. */
static kaws_status
kaws__calls_sign(kaws__call *c)
{
    static const char name[] = "Authorization: ";
    kaws__shared *k = c->op->shared;
    kaws_signing what = { .method = "POST", .path = "/", .service = "kms",
                          .region = c->target->region, .headers = c->headers,
                          .body = kaws__buf_view(&c->body) };
    char date[17];
    const char *wrong;
    kaws__signer signer;
    kaws_creds who = { signer.id, NULL, NULL };
    kaws_status status = kaws__op_creds(c->op, c->op->aside ? KAWS__TO_PROBE
                                        : KAWS__TO_SIGN,
                                        kaws__route_sts_region(c));
    int n;

    if (status != KAWS_OK)
        return status;                    /* so there is nothing to wipe      */
    c->signed_at = what.when = kaws__op_now(k);       /* the credentials may  */
    kaws__text_amz_date(date, what.when);             /* have taken a while   */
    kaws__creds_signer(&k->creds, date, c->target->region, &signer);
    c->generation = signer.generation;
    c->told = signer.told;
    n = signer.token[0] != '\0';          /* lines beyond the fixed ones      */
    (void)snprintf(c->date_line, sizeof c->date_line, "X-Amz-Date: %s", date);
    (void)snprintf(c->token_line, sizeof c->token_line,
                   "X-Amz-Security-Token: %s", signer.token);
    c->headers[4] = n > 0 ? c->token_line : NULL;
    c->headers[5] = NULL;                 /* these are signed, and then sent  */
    memcpy(c->authorization, name, sizeof name);
    wrong = kaws__sigv4_authorize(&what, who, &signer.key,
                                  c->authorization + sizeof name - 1,
                                  sizeof c->authorization - sizeof name + 1);
    kaws__creds_wipe(&signer);
    c->headers[4 + n] = c->authorization;
    return wrong == NULL ? KAWS_OK
         : kaws__err_set(c->op->err, KAWS_MEMORY, "cannot sign %s: %s",
                         c->action->name, wrong);
}


/* Writes words from outside as our texts may show them. Writes nothing if they
 * repeat a piece of a secret that we know: of the current credentials, or of
 * the token, the signature or the plaintext that this call sends. */
static const char *
kaws__calls_words(const kaws__call *c, char *out, size_t cap, kaws_bytes words)
{
    const kaws_bytes sent[3] = {
        kaws__buf_of(c->token_line + strlen("X-Amz-Security-Token: ")),
        kaws__buf_of(strstr(c->authorization, "Signature=") + 10),
        { c->body.at + c->secret_at, c->secret_len }
    };
    char whole[640];              /* more than is shown: nothing slips by     */
    kaws_bytes text = kaws__buf_of(kaws__text_quote(whole, sizeof whole,
                                                    words));
    int i, secret = kaws__creds_leak_in(&c->op->shared->creds, text);

    for (i = 0; i < 3 && !secret; i++)
        secret = kaws__text_holds(text, sent[i]);
    kaws_wipe(whole, sizeof whole);
    words.len = secret ? 0 : words.len;
    return kaws__text_quote(out, cap, words);
}


/* Fills in what the error says of the reply, except its text. Returns the
 * request id. */
static const char *
kaws__calls_blame(kaws__call *c, const char *type)
{
    kaws_error *err = c->op->err;

    err->http = c->r.http;
    kaws__calls_words(c, err->aws, sizeof err->aws, kaws__buf_of(type));
    return kaws__calls_words(c, err->request_id, sizeof err->request_id,
                             kaws__buf_of(c->r.request_id));
}


/* Fails, because the reply cannot be the answer to our request. The request is
 * not sent again. */
static kaws_status
kaws__calls_nonsense(kaws__call *c, const char *why)
{
    c->clean = c->cures = 0;
    return kaws__err_set(c->op->err, KAWS_REPLY, "the reply of %s to %s "
                         "makes no sense (HTTP %d, request id %s): %s", c->host,
                         c->action->name, c->r.http, kaws__calls_blame(c, ""),
                         why);
}


/* Returns the advice for a fault. If the advice names the conf file, but the
 * credentials come from a different source, or are a role's, `out` gets advice
 * that names those. */
static const char *
kaws__calls_advice(const kaws__call *c, const char *advice, char out[128])
{
    const char *file = "the conf file", *rest = strchr(advice, ';');
    const kaws__sources *const s = &c->op->shared->creds.sources;
    const char *source = s->source->name;

    if (strstr(advice, file) == NULL ||
        (strcmp(source, file) == 0 && s->then == NULL))
        return advice;
    (void)snprintf(out, 128, "check the %s %s%s", s->role.arn != NULL
                   ? "role that is assumed with what comes from"
                   : "credentials that come from", source,
                   rest != NULL ? rest : "");
    return out;
}


/* Reads a reply other than 200. The connection stays clean only if the error is
 * KMS's own and says that the request was at fault (4xx). */
static kaws_status
kaws__calls_refused(kaws__call *c)
{
    kaws_error *err = c->op->err;
    kaws_bytes message;
    char type[64], shown[304] = "", room[128];
    const kaws__fault *fault = kaws__fault_read(&c->r, type, &message);
    const char *advice = kaws__calls_advice(c, fault->advice, room), *id;
    kaws_status status = fault->status;

    c->typed = type[0] != '\0';
    c->cures = fault->cures;
    if (c->op->entry && strncmp(type, "InvalidCiphertext", 17) == 0)
        advice = kaws__fault_of("InvalidCiphertext-entry", 400)->advice;
    c->clean = c->typed && c->r.http >= 400 && c->r.http <= 499 &&
               c->r.http != 408 && c->r.http != 425;
    if (status == KAWS_OK && c->clean && (c->action->flags & KAWS__DRY))
        return KAWS_OK;
    if ((c->cures & KAWS__ENDS) && c->place == 0 && !c->op->aside)
        kaws__shield_empty(c->op->shared->shield, 0);
    if (status == KAWS_OK || (status == KAWS_MISMATCH &&
                              !(c->action->flags & KAWS__OPENS))) {
        c->clean = 0;
        status = KAWS_REPLY;
        advice = "that answers another request";
    }
    if ((c->cures & KAWS__CITE) && c->secret_len == 0)
        kaws__calls_words(c, shown, sizeof shown, message);
    id = kaws__calls_blame(c, type);
    return kaws__err_set(err, status, "AWS KMS at %s refused %s (%s, HTTP %d, "
                         "request id %s)%s%s; %s", c->host, c->action->name,
                         err->aws[0] != '\0' ? err->aws : "no error type",
                         c->r.http, *id != '\0' ? id : "none",
                         shown[0] != '\0' ? ": " : "", shown, advice);
}


/* Says why an attempt got no reply, or none that may be read. */
static kaws_status
kaws__calls_unanswered(kaws__call *c, kaws_status outcome)
{
    char words[128];

    if (outcome == KAWS_CANCELLED && (c->action->flags & KAWS__UNREPEATED))
        return kaws__err_set(c->op->err, outcome, "the call was cancelled while"
                             " it waited for AWS KMS to answer %s, which KMS "
                             "may have done", c->action->name);
    if (outcome == KAWS_CANCELLED)
        return kaws__err_cancelled(c->op->err, "AWS KMS");
    if (outcome == KAWS_REPLY)
        (void)kaws__calls_nonsense(c, "an earlier reply had the same request "
                                   "id, so it answers another request");
    if (outcome != KAWS_CONFIG)
        c->cures = KAWS__LATER;
    if (outcome == KAWS_REPLY)
        return KAWS_REPLY;
    return kaws__err_set(c->op->err, outcome, "cannot %s AWS KMS at %s for %s: "
                         "%s%s", outcome == KAWS_NETWORK ? "reach" : "ask",
                         c->host, c->action->name,
                         kaws__calls_words(c, words, sizeof words,
                                           kaws__buf_of(c->r.text)),
                         outcome == KAWS_NETWORK ? "" : "; check the endpoint, "
                         "ca_file and the proxy");
}


/* Reads a reply: from a 200, the members that the action wants. */
static kaws_status
kaws__calls_answered(kaws__call *c)
{
    const char *wrong = NULL;
    char words[128];
    size_t offset;

    if (c->r.body_len > c->r.body_max && c->r.http < 500)
        return kaws__calls_nonsense(c, "it is longer than 16384 bytes");
    if (c->r.http != 200)
        return kaws__calls_refused(c);
    if (c->wanted > 0) {
        wrong = kaws__json_read(c->r.body, c->r.body_len, c->want, c->wanted,
                                &offset);
        c->clean = wrong == NULL;
    }
    if (wrong == NULL)
        return KAWS_OK;
    (void)snprintf(words, sizeof words, "%s, at byte %s", wrong,
                   KAWS__DECIMAL(offset));
    return kaws__calls_nonsense(c, words);
}


/* Waits until a host may be asked, for as long as there is patience. If none
 * may be asked, returns 0, and the error says why. */
static int
kaws__calls_admit(kaws__call *c)
{
    const kaws_hooks *hooks = c->op->shared->hooks;
    const kaws__cancel cancel = { c->q.cancelled, c->q.cancelled_arg };
    kaws_error *err = c->op->err;
    int wait, patience = 0;

    while ((wait = kaws__route_choose(c, patience > 0)) > 0) {
        if (hooks->patience_ms != NULL && !c->op->aside)
            patience = hooks->patience_ms(hooks->ctx, err);
        if (patience <= 0) {
            c->vain = 0;                  /* so breaker keeps the last error  */
            return 0;
        }
        wait = wait < patience ? wait : patience;
        wait = wait < KAWS__CANCEL_MS ? wait : KAWS__CANCEL_MS;
        if (kaws__thread_pause(hooks, &cancel, wait)) {
            (void)kaws__err_cancelled(err, "AWS KMS");
            return 0;
        }
        c->op->begun_ms = hooks->ticks_ms(hooks->ctx);
    }
    c->probe_ms = c->q.connect_timeout_ms + 1000;
    if (patience > 0 && patience < c->probe_ms)   /* no longer than patience  */
        c->probe_ms = patience > KAWS__BREAKER_BRIEF ? patience
                                                     : KAWS__BREAKER_BRIEF;
    return 1;
}


/* Counts the attempts that AWS throttled, and those in vain: with no reply, or
 * with a 5xx that is not about one KMS key. An attempt without a reply proves
 * nothing if it had too little time and used it up (timers end some ms early).
 * Nor does one that was cancelled, or that a wrong setting kept from KMS. */
static void
kaws__calls_count(kaws__call *c, kaws_status status)
{
    int took = c->left_ms - kaws__op_left_ms(c->op);

    c->throttled += (c->cures & KAWS__SLOWER) != 0;
    if (status == KAWS_NETWORK)
        c->vain += took + 10 < c->q.timeout_ms ||
                   c->q.timeout_ms >= KAWS__BREAKER_BRIEF;
    else if (status == KAWS_SERVICE && c->r.http >= 500 &&
             !(c->cures & KAWS__ALIVE))
        c->vain++;
    else if (status != KAWS_CANCELLED && status != KAWS_CONFIG &&
             (status != KAWS_REPLY || c->r.http < 500)) {
        c->vain = 0;
        kaws__breaker_well(&c->pass);
    }
}


/* Makes one attempt. */
static kaws_status
kaws__calls_try(kaws__call *c)
{
    kaws__shared *k = c->op->shared;
    kaws_request *q = &c->q;
    const kaws__cancel cancel = { q->cancelled, q->cancelled_arg };
    kaws_bytes id;
    int64_t took, started;
    kaws_status status;

    kaws__err_clear(c->op->err);
    c->cures = c->typed = c->settled = 0;
    c->tries++;
    status = kaws__calls_sign(c);
    c->unsent = status != KAWS_OK;
    if (c->unsent) {
        c->cures = kaws__creds_may_pass(c->op->err) ? KAWS__PATIENT : 0;
        c->vain = 0;                      /* this error is not the host's     */
        return status;
    }
    started = kaws__sys_ticks_us();       /* the credentials do not count     */
    if (kaws__thread_pause(k->hooks, &cancel, 0))
        return kaws__err_cancelled(c->op->err, "AWS KMS");
    c->left_ms = kaws__op_left_ms(c->op);
    q->timeout_ms = c->left_ms > 1 ? c->left_ms : 1;
    if (c->pass.probes && q->timeout_ms > c->probe_ms)
        q->timeout_ms = c->probe_ms;
    if (c->later > 0)
        q->timeout_ms = kaws__route_share(c, q->timeout_ms);
    if (c->op->aside && q->timeout_ms > c->probe_ms)
        q->timeout_ms = c->probe_ms;
    /* What spoiled one idle connection may have spoiled all. */
    q->fresh_connection = c->doubtful || (c->action->flags & KAWS__APART) != 0;
    status = kaws__http_send(&k->http, q, &c->r, &c->lent);
    if (status == KAWS_NETWORK && kaws__thread_pause(k->hooks, &cancel, 0))
        status = KAWS_CANCELLED;          /* what a `send` hook cannot say    */
    id = kaws__buf_of(c->r.request_id);
    c->op->reply_id = id.len > 0 ? kaws__buf_digest(id) : 0;
    status = status == KAWS_OK ? kaws__calls_answered(c)
                               : kaws__calls_unanswered(c, status);
    kaws__calls_count(c, status);
    took = kaws__sys_ticks_us() - started;
    kaws__thread_lock(&k->lock);
    k->stats.kms_requests++;
    k->stats.kms_errors += status != KAWS_OK;
    k->stats.kms_time_us += took > 0 ? (uint64_t)took : 0;
    kaws__thread_unlock(&k->lock);
    return status;
}


/* ---- whether to try again ---------------------------------------------- */

/* If our clock is wrong by more than 4 minutes, requests are signed with AWS's
 * time from now on: returns 1. A Date that is missing, or not between 2020 and
 * 2099, is not believed. */
static int
kaws__calls_mend_clock(kaws__shared *k, int64_t date, int64_t signed_at)
{
    int64_t off = date < 1577836800 || date >= 4102444800 ? 0
                : date - signed_at;

    if (off <= 240 && off >= -240)
        return 0;
    kaws__thread_lock(&k->lock);
    off = date - k->hooks->now_ms(k->hooks->ctx) / 1000;
    if (off <= 240 && off >= -240)
        off = 0;                          /* our clock was set meanwhile      */
    k->clock_offset_s = off;
    kaws__thread_unlock(&k->lock);
    if (off == 0)
        kaws__err_log(k->hooks, KAWS__LOG_CLOCK_AGREES);
    else
        kaws__err_log(k->hooks, KAWS__LOG_CLOCK, (long)(off > 0 ? off : -off),
                      off > 0 ? "behind" : "ahead of");
    return 1;
}


/* Mends the clock or the credentials, if that may help, and says whether to try
 * again at once. Each cure is tried once. */
static int
kaws__calls_mend(kaws__call *c)
{
    kaws__shared *k = c->op->shared;
    int cures = (c->action->flags & KAWS__UNREPEATED) || c->op->aside
              ? 0 : c->cures;
    kaws__seek seek = kaws__op_seek(c->op, kaws__route_sts_region(c));

    if ((cures & KAWS__CLOCK) && !c->clock_mended &&
        kaws__calls_mend_clock(k, c->r.date, c->signed_at))
        return c->clock_mended = 1;
    if ((cures & KAWS__RENEW) && c->creds_renewed)
        kaws__creds_spurned(&k->creds, c->generation);
    if (!(cures & KAWS__RENEW) || c->creds_renewed)
        return 0;
    return c->creds_renewed = kaws__creds_renew(&k->creds, &seek,
                                                c->generation, c->told);
}


/* Whether the call has had all its attempts: max_attempts, if that is set; else
 * three, and as many as AWS throttles within its time. If one caller gave up
 * early while others went on, it would starve. */
static int
kaws__calls_spent(const kaws__call *c)
{
    int most = c->op->shared->max_attempts;

    return most > 0 ? c->attempt >= most
         : !(c->cures & KAWS__SLOWER) && c->attempt - c->throttled >= 3;
}


/* How long to pause before the next attempt. As in AWS's standard retry mode:
 * full jitter over an interval that doubles, up to 20 s. The limit is 1 s with
 * patience, and for throttled attempts if only time bounds them: with longer
 * pauses, a caller that was throttled would wait while one that was answered
 * asks again at once. */
static int64_t
kaws__calls_delay(const kaws__call *c, int patient)
{
    const kaws_hooks *hooks = c->op->shared->hooks;
    int slower = (c->cures & KAWS__SLOWER) != 0;
    int64_t delay = slower ? 1000 : 50, asked = c->r.retry_after_ms;
    int64_t most = patient || (slower && c->op->shared->max_attempts == 0)
                 ? 1000 : 20000;
    uint16_t chance = 0xffff;
    /* Attempts that were throttled had pauses of their own. */
    int i = slower ? 1 : 1 + c->throttled;

    for (; i < c->attempt && delay < most; i++)
        delay *= 2;
    (void)hooks->random(hooks->ctx, &chance, sizeof chance);
    delay = (delay < most ? delay : most) * chance / 0xffff;
    /* AWS asks all callers alike: the random part keeps them apart. */
    if (asked > delay)
        delay += asked < 5000 ? asked : 5000;
    return delay;
}


/* Waits, if another attempt later may help and there is time for it; says
 * whether to make it. With patience the pauses are short, because a program
 * that cannot go on should learn soon that KMS is back, and because the hook's
 * patience may end during a long one. */
static int
kaws__calls_wait(kaws__call *c)
{
    kaws__shared *k = c->op->shared;
    const kaws__cancel cancel = { c->q.cancelled, c->q.cancelled_arg };
    const kaws_hooks *hooks = k->hooks;
    int once = c->action->flags & KAWS__UNREPEATED;
    int again = c->cures & (KAWS__PATIENT | KAWS__SLOWER |
                            (once ? 0 : KAWS__LATER));
    int patience = again && hooks->patience_ms != NULL && !c->op->aside
                 ? hooks->patience_ms(hooks->ctx, c->op->err) : 0;
    int64_t delay;
    int left, over = kaws__calls_spent(c) || c->pass.probes ||
                     (c->op->aside && c->attempt >= 2);

    if (!again || patience == INT_MIN ||
        (patience <= 0 && (over || again == KAWS__PATIENT)))
        return 0;
    delay = kaws__calls_delay(c, patience > 0);
    left = kaws__op_left_ms(c->op);
    over |= delay + (c->left_ms - left) >= left;  /* if the next is as slow   */
    over |= c->places > 0 && delay + KAWS__ROUTE_LEAST >= left;
    over |= (c->paused_ms += delay) > c->op->timeout_ms;
    if (patience <= 0 && over) {
        c->op->late = 1;
        return 0;
    }
    if (patience > 0 && delay > patience)
        delay = patience;
    if (over) {                           /* to room breaker, a new call      */
        kaws__breaker_end(&c->pass, c->vain, 0, c->op->err);
        c->pass.begun = c->vain = 0;
    }
    if (kaws__thread_pause(hooks, &cancel, (int)delay))
        return 1;                         /* calls_try ends the call          */
    if (patience > 0) {
        c->op->begun_ms = hooks->ticks_ms(hooks->ctx);
        c->paused_ms = 0;
    }
    if (again == KAWS__PATIENT)
        kaws__creds_forget(&k->creds);
    c->attempt++;
    kaws__thread_lock(&k->lock);
    k->stats.kms_retries++;
    kaws__thread_unlock(&k->lock);
    return 1;
}


/* Whether the next region may do better. */
static int
kaws__calls_may_move(const kaws__call *c)
{
    const kaws_error *err = c->op->err;

    if (c->unsent && !kaws__route_asks_sts(c))
        return 0;
    if (kaws__route_is_theirs(c))
        return 1;
    if (c->unsent)
        return c->cures == KAWS__PATIENT;
    return err->status == KAWS_NETWORK || err->status == KAWS_THROTTLED ||
           (err->status == KAWS_SERVICE && ((c->cures & KAWS__LATER) ||
                                            err->http >= 500));
}


/* After an attempt that failed: prepares for the next one, or returns 0. What
 * failed quickly, and for the first time, may have been a mere accident, so it
 * is tried once more in the same region. */
static int
kaws__calls_again(kaws__call *c)
{
    kaws__shared *k = c->op->shared;
    int took = c->left_ms - kaws__op_left_ms(c->op), at;

    if (kaws__calls_mend(c))
        return 1;
    if (c->places == 0 || !kaws__calls_may_move(c))
        return kaws__calls_wait(c);
    if (c->tries == 1 && took < KAWS__ROUTE_SHORT && !c->unsent &&
        (c->cures & KAWS__LATER) && kaws__calls_wait(c))
        return 1;
    kaws__route_leave(c);
    if ((at = kaws__route_next(c)) < 0) {         /* the round is over        */
        if (!kaws__calls_wait(c))
            return 0;
        kaws__route_take(c, c->op->only > 0);
        c->last = 1;
        return 1;
    }
    kaws__route_take(c, at);
    c->attempt++;
    kaws__thread_lock(&k->lock);
    k->stats.kms_retries++;
    kaws__thread_unlock(&k->lock);
    return 1;
}


/* Sends the call until it succeeds, is refused for good, or times out. A body
 * with a plaintext ends in spaces: room curl says why. */
static kaws_status
kaws__calls_send(kaws__call *c)
{
    kaws_error *err = c->op->err;
    size_t n = c->secret_len > 0 ? c->body.len + 1 + KAWS__CALLS_SPACES : 0;
    uint8_t *spaces;
    int failed;

    kaws__json_end(&c->body);
    if ((spaces = kaws__buf_grow(&c->body, n)) != NULL)
        memset(spaces, ' ', n);
    c->r.body_max = KAWS__CALLS_REPLY_MAX;
    c->r.body = kaws__mem_resize(c->op->shared->hooks, NULL, 0,
                                 c->r.body_max);
    if (c->r.body == NULL || c->body.failed)
        return kaws__err_memory(err, c->action->name);
    c->q.url = c->url;
    c->q.headers = c->headers;
    c->q.body = kaws__buf_view(&c->body);
    c->q.connect_timeout_ms = c->op->connect_timeout_ms;
    c->q.cancelled = c->op->cancel.asked != NULL ? kaws__op_cancelled : NULL;
    c->q.cancelled_arg = c->op;
    c->attempt = 1;
    while (kaws__calls_admit(c) && kaws__calls_try(c) != KAWS_OK) {
        kaws__calls_judged(c);
        if (!kaws__calls_again(c))
            break;
    }
    failed = err->status == KAWS_NETWORK || err->status == KAWS_SERVICE;
    if (failed && c->place > 0 && c->settled)
        kaws__route_take(c, 0);           /* home's error, home's failed call */
    if (failed || c->pass.probes)
        kaws__breaker_end(&c->pass, failed ? c->vain : 0,
                          failed && !c->op->aside, err);
    c->attempt += c->clock_mended + c->creds_renewed;
    if (err->status == KAWS_OK && c->op->shared->regions.count > 0)
        kaws__route_note(c);
    if (err->status != KAWS_OK && c->attempt > 1)
        (void)kaws__err_set(err, err->status, "%s (%d attempts)", err->text,
                            c->attempt);
    if (c->op->at_home && !c->op->aside && c->op->shared->regions.count > 0 &&
        (failed || err->status == KAWS_THROTTLED))
        (void)kaws__err_set(err, err->status, "%.400s; only the KMS key's own "
                            "region, %s, does this, so failover_regions cannot "
                            "help", err->text, c->home->region);
    return err->status;
}


/* ==========================================================================
 * ROOM  kms      the actions of AWS KMS: only what fits is believed
 * ==========================================================================
 * Uses: err mem buf text json http arn trust op route calls
 * Gives: kms_has_key kms_seal kms_probe kms_open kms_prove kms_prove_key
 *        kms_reencrypt kms_rotate kms_ask_region kms_mixed_up kms_may_use
 *
 * One function for each action. It writes a call, sends it, and takes from the
 * reply only what it has verified. If the reply names a KMS key other than the
 * request's, it is nonsense, and its connection is not used again.
 */

/* The places of the members that are wanted of a reply. */
enum { KAWS__KEY, KAWS__PLAIN, KAWS__BLOB, KAWS__MATERIAL,
       KAWS__SOURCE = KAWS__PLAIN };

/* Lines that are logged only once. */
enum { KAWS__NOTE_DRY_RUN = 1, KAWS__NOTE_UNPROVED = 2,
       KAWS__NOTE_NO_ROUTE = 4 };


/* CONFIG, if there is no KMS key to seal with. */
static kaws_status
kaws__kms_has_key(const kaws__op *op)
{
    if (op->target.key_id[0] != '\0')
        return KAWS_OK;
    return kaws__err_set(op->err, KAWS_CONFIG, "no KMS key is set to "
                         "seal with: kms_key_id has to be set");
}


/* ---- the members of requests and replies ------------------------------- */

static void
kaws__kms_put_text(kaws__call *c, const char *name, const char *value)
{
    kaws__json_name(&c->body, name);
    kaws__json_string(&c->body, kaws__buf_of(value));
}


static void
kaws__kms_put_data(kaws__call *c, const char *name, const uint8_t *at,
                   size_t len)
{
    kaws_bytes data = { at, len };

    kaws__json_name(&c->body, name);
    kaws__json_base64(&c->body, data);
}


static void
kaws__kms_put_context(kaws__call *c, const char *name, const kaws_context *ctx)
{
    size_t i;

    if (ctx == NULL || ctx->count == 0)
        return;
    kaws__json_name(&c->body, name);
    kaws__json_begin(&c->body);
    for (i = 0; i < ctx->count; i++)
        kaws__kms_put_text(c, ctx->pairs[i].name, ctx->pairs[i].value);
    kaws__json_end(&c->body);
}


/* Returns the ARN that a member of the reply names; for a multi-region key that
 * another region answered for, its ARN at home. If that region must not answer
 * with this one, *why says so, and otherwise it is NULL. */
static kaws_bytes
kaws__kms_key(const kaws__call *c, int member, kaws__target *at_home,
              const char **why)
{
    kaws_bytes arn = c->want[member].value;
    char text[KAWS__ARN_MAX + 1];

    *why = NULL;
    if (c->place == 0)
        return arn;
    *why = kaws__arn_unrelated(c->target->key_id, arn, c->target->region);
    if (*why == NULL && kaws__buf_copy_text(text, sizeof text, arn))
        kaws__arn_move(at_home, text, c->home->region);
    return kaws__buf_of(at_home->key_id);
}


/* A member must name the KMS key that the request named. */
static kaws_status
kaws__kms_expect_key(kaws__call *c, int member, const char *arn)
{
    kaws__target at_home = { "", "" };
    const char *wrong;
    kaws_bytes got = kaws__kms_key(c, member, &at_home, &wrong);
    char why[160];

    if (wrong == NULL && kaws__buf_same(got, kaws__buf_of(arn)))
        return KAWS_OK;
    (void)snprintf(why, sizeof why, "%s is not the KMS key that was asked for"
                   "%s%s", c->want[member].name, wrong != NULL ? ": " : "",
                   wrong != NULL ? wrong : "");
    return kaws__calls_nonsense(c, why);
}


/* *len: in, the room at `out`; out, the length of the plaintext. `out` may be
 * the reply's body, which calls_end wipes. */
static kaws_status
kaws__kms_take_plain(kaws__call *c, uint8_t *out, size_t *len)
{
    if (!kaws__text_unbase64(c->want[KAWS__PLAIN].value, out, *len, len) ||
        *len == 0)
        return kaws__calls_nonsense(c, "Plaintext is missing, too long or not "
                                    "base64");
    return KAWS_OK;
}


/* Takes a blob, which a trusted KMS key must have sealed for the target, and
 * the id of its key material, if KMS tells that. This also notes whose account
 * and which KMS key it was, so verify all else in the reply before. */
static kaws_status
kaws__kms_take_sealed(kaws__call *c, kaws_sealed *out)
{
    kaws__op *op = c->op;
    kaws_bytes material = c->want[KAWS__MATERIAL].value;
    kaws__target at_home = { "", "" };
    const char *wrong;
    kaws_bytes key = kaws__kms_key(c, KAWS__KEY, &at_home, &wrong);
    char *arn = out->kms_key_arn, why[160];
    kaws_status status;

    memset(out, 0, sizeof *out);
    if (!kaws__text_unbase64(c->want[KAWS__BLOB].value, out->blob,
                             sizeof out->blob, &out->blob_len) ||
        out->blob_len == 0)
        return kaws__calls_nonsense(c, "CiphertextBlob is missing, too long or "
                                    "not base64");
    if (wrong != NULL ||
        !kaws__buf_copy_text(arn, sizeof out->kms_key_arn, key) ||
        !kaws__arn_fits(&op->target, arn)) {
        (void)snprintf(why, sizeof why, "KeyId is not the ARN of the KMS key "
                       "that was asked for%s%s", wrong != NULL ? ": " : "",
                       wrong != NULL ? wrong : "");
        return kaws__calls_nonsense(c, why);
    }
    if (kaws__arn_word_ok(material))
        (void)kaws__buf_copy_text(out->key_material_id,
                                  sizeof out->key_material_id, material);
    status = kaws__trust_check(&op->shared->trust, arn, op->trial != NULL
                               ? KAWS__TO_SEAL : KAWS__SEALED, op->err);
    if (status != KAWS_OK)
        return status;
    if (op->trial != NULL)
        memcpy(op->trial, arn, sizeof out->kms_key_arn);
    kaws__trust_notice(&op->shared->trust, &op->target, arn);
    if (!kaws__arn_is_multi(arn) && op->shared->regions.count > 0 &&
        kaws__op_first(op->shared, KAWS__NOTE_NO_ROUTE))
        kaws__err_log(op->shared->hooks, KAWS__LOG_NO_ROUTE, op->target.key_id,
                      arn);
    return KAWS_OK;
}


/* ---- sealing and opening ----------------------------------------------- */

/* Encrypt; or, if plain.at is NULL, GenerateDataKey of plain.len bytes. They
 * are returned in `made`; if that is NULL, they never leave KMS, so no reply
 * holds them. */
static kaws_status
kaws__kms_seal(kaws__op *op, const kaws_context *ctx, kaws_bytes plain,
               uint8_t *made, kaws_sealed *out)
{
    const kaws__action action = {
        plain.at != NULL ? "Encrypt" : made != NULL ? "GenerateDataKey"
                         : "GenerateDataKeyWithoutPlaintext", "KeyId", 0,
        { "KeyId", "Plaintext", "CiphertextBlob", "KeyMaterialId" }
    };
    size_t got = plain.len;
    kaws__call c;
    kaws_status status;

    kaws__calls_begin(&c, op, &action, &op->target, NULL);
    if (plain.at != NULL) {
        c.secret_at = c.body.len + strlen(",\"Plaintext\":\"");
        kaws__kms_put_data(&c, "Plaintext", plain.at, plain.len);
        c.secret_len = c.body.len - 1 - c.secret_at;
    } else {
        kaws__json_name(&c.body, "NumberOfBytes");
        kaws__json_number(&c.body, plain.len);
    }
    kaws__kms_put_context(&c, "EncryptionContext", ctx);
    if ((status = kaws__calls_send(&c)) == KAWS_OK && made != NULL)
        status = kaws__kms_take_plain(&c, made, &got);
    if (status == KAWS_OK && got != plain.len)
        status = kaws__calls_nonsense(&c, "Plaintext does not have the length "
                                      "that was asked for");
    if (status == KAWS_OK)
        status = kaws__kms_take_sealed(&c, out);
    if (status != KAWS_OK && made != NULL)
        kaws_wipe(made, plain.len);
    return kaws__calls_end(&c);
}


/* Decrypt; with KAWS__DRY in the flags, its dry run. The request names the
 * blob's KMS key, which must be trusted before anything is sent. With
 * KAWS__LEARNS the request names the target instead: if KMS opens the blob, the
 * reply tells the target's KMS key, which must be trusted then.
 * *len: in, the room at `plain`; out, how long the key is, 0 on failure. A key
 * that is longer than the room is not copied. If `expect` has a length, the key
 * must have that length, and the bytes of `expect` if there are any. Otherwise
 * it is MISMATCH, and the connection is not used again, because the reply may
 * be that to another request.
 * After a dry run *len is 0 if KMS said that it would open the blob. If KMS did
 * open it, the reply is read only with KAWS__APART. */
static kaws_status
kaws__kms_decrypt(kaws__op *op, int flags, const kaws_context *ctx,
                  const kaws_sealed *in, kaws_bytes expect, uint8_t *plain,
                  size_t *len)
{
    const kaws__action action = {
        "Decrypt", "KeyId", KAWS__OPENS | flags,
        { flags == KAWS__DRY ? NULL : "KeyId", "Plaintext" }
    };
    const char *arn = in->kms_key_arn;
    size_t got = KAWS_PLAIN_MAX;
    kaws__target from = { "", "" };
    kaws__call c;
    kaws_status status = KAWS_OK;

    (void)kaws__arn_target(&from, arn, "", NULL);
    /* An alias may mean another KMS key elsewhere, but a key id alone is one of
     * our own account, too. */
    kaws__calls_begin(&c, op, &action,
                      flags & KAWS__LEARNS ? &op->target : &from,
                      flags & KAWS__LEARNS ? strchr(arn, '/') + 1 : NULL);
    kaws__kms_put_data(&c, "CiphertextBlob", in->blob, in->blob_len);
    kaws__kms_put_context(&c, "EncryptionContext", ctx);
    if (flags & KAWS__DRY) {
        kaws__json_name(&c.body, "DryRun");
        kaws__json_true(&c.body);
    }
    if (!(flags & KAWS__LEARNS) &&
        (op->trial == NULL || strcmp(op->trial, arn) != 0))
        status = kaws__trust_check(&op->shared->trust, arn, KAWS__TO_OPEN,
                                   op->err);
    if (status == KAWS_OK)
        status = kaws__calls_send(&c);
    if (status == KAWS_OK && c.r.http != 200)
        got = 0;
    else if (status == KAWS_OK && (flags & KAWS__LEARNS) && c.place == 0 &&
             !kaws__buf_same(c.want[KAWS__KEY].value, kaws__buf_of(arn)))
        status = kaws__err_set(op->err, KAWS_MISMATCH, "another KMS key sealed "
                               "the blob than the one that is named beside it");
    else if (status == KAWS_OK && c.wanted > 0 &&
             (status = kaws__kms_expect_key(&c, KAWS__KEY, arn)) == KAWS_OK)
        status = kaws__kms_take_plain(&c, c.r.body, &got);
    if (status == KAWS_OK && got > 0 && expect.len > 0 &&
        (got != expect.len ||
         (expect.at != NULL && memcmp(c.r.body, expect.at, got) != 0)))
        status = kaws__err_set(op->err, KAWS_MISMATCH, "the blob opens "
                               "to %s byte%s, not to what was sealed, which "
                               "has %s", KAWS__COUNT(got),
                               KAWS__DECIMAL(expect.len));
    if (status == KAWS_OK && (flags & KAWS__LEARNS))
        status = kaws__trust_check(&op->shared->trust, arn, KAWS__SEALED,
                                   op->err);
    c.clean = c.clean && status != KAWS_MISMATCH;
    kaws_wipe(plain, *len);
    if (status == KAWS_OK && got <= *len && plain != NULL)
        memcpy(plain, c.r.body, got);
    *len = status == KAWS_OK ? got : 0;
    return kaws__calls_end(&c);
}


/* ---- proofs ------------------------------------------------------------ */

/* An earlier reply belonged to a different request: says so, and trusts none of
 * the open connections any more. */
static kaws_status
kaws__kms_mixed_up(kaws__shared *k, const char *what, kaws_error *err)
{
    kaws__http_distrust(&k->http);
    return kaws__err_set(err, KAWS_REPLY, "%s: something between here and AWS "
                         "KMS may be mixing up its replies", what);
}


/* Whether KMS would open this blob for us, to a key of that length. A 200
 * proves nothing: it may answer another request. Then KMS is asked once more,
 * over a connection of its own; a second 200 means that this KMS knows no dry
 * run. */
static kaws_status
kaws__kms_prove(kaws__op *op, const kaws_context *ctx, const kaws_sealed *in,
                size_t len)
{
    const kaws_bytes any = { NULL, 0 }, expect = { NULL, len };
    kaws__shared *k = op->shared;
    size_t first = 0, second = 0;
    kaws_status status = kaws__kms_decrypt(op, KAWS__DRY, ctx, in, any, NULL,
                                           &first);

    if (status == KAWS_OK && first > 0)
        status = kaws__kms_decrypt(op, KAWS__DRY | KAWS__APART, ctx, in, expect,
                                   NULL, &second);
    if (status == KAWS_MISMATCH)
        return kaws__kms_mixed_up(op->shared, "the blob that AWS KMS returned "
                                  "is not what it was asked to seal", op->err);
    if (status == KAWS_OK && first > 0 && second == 0)
        kaws__http_distrust(&k->http);    /* the 200 was to another request   */
    else if (status == KAWS_OK && first > 0 &&
             kaws__op_first(k, KAWS__NOTE_DRY_RUN))
        kaws__err_log(k->hooks, KAWS__LOG_NO_DRY_RUN);
    return status;
}


/* Has KMS open what it has just sealed: the result must be the key. Without the
 * right to decrypt there is no proof. That is logged once, but is no failure.
 */
static kaws_status
kaws__kms_prove_key(kaws__op *op, const kaws_context *ctx,
                    const kaws_sealed *in, kaws_bytes plain)
{
    kaws_error *err = op->err;
    size_t none = 0;
    kaws_status status = kaws__kms_decrypt(op, 0, ctx, in, plain, NULL, &none);

    if (status == KAWS_MISMATCH)
        return kaws__kms_mixed_up(op->shared, "the blob that AWS KMS returned "
                                  "does not open to the key, and nothing was "
                                  "stored", err);
    if (status != KAWS_DENIED || err->aws[0] == '\0' || err->http / 100 != 4)
        return status;
    kaws__err_clear(err);
    if (kaws__op_first(op->shared, KAWS__NOTE_UNPROVED))
        kaws__err_log(op->shared->hooks, KAWS__LOG_UNPROVED);
    return KAWS_OK;
}


/* Has KMS seal a byte that nobody needs. The reply tells the ARN of the
 * target's KMS key and the id of its key material, and proves that we may seal
 * with it. With `proof`, also asks whether KMS would open the blob again. */
static kaws_status
kaws__kms_probe(kaws__op *op, int proof, kaws_sealed *sealed)
{
    static const kaws_pair app = { "app", "keyring_aws" };
    static const kaws_bytes byte = { NULL, 1 };
    const kaws_context ctx = { &app, 1 };
    kaws_status status = kaws__kms_has_key(op);

    if (status == KAWS_OK)
        status = kaws__kms_seal(op, &ctx, byte, NULL, sealed);
    if (status == KAWS_OK && proof)
        status = kaws__kms_prove(op, &ctx, sealed, 1);
    return status;
}


/* Asks KMS for the ring's own account, if we must know that before we can say
 * whether a KMS key is trusted. */
static kaws_status
kaws__kms_learn_account(kaws__op *op)
{
    kaws_sealed sealed;

    return kaws__trust_ask_first(&op->shared->trust, &op->target)
         ? kaws__kms_probe(op, 0, &sealed) : KAWS_OK;
}


/* Opens a blob for the caller. If the own account is not known yet, we ask KMS
 * to open the blob with the target's KMS key: its reply then tells the account.
 * If that fails, because another KMS key sealed the blob or because we may not
 * use the target's, we ask for the account first, and then open the blob. If
 * KMS refuses to tell the account as well, we return its first refusal, which
 * says more, unless that only said that another KMS key sealed the blob. */
static kaws_status
kaws__kms_open(kaws__op *op, const kaws_context *ctx, const kaws_sealed *in,
               kaws_bytes expect, uint8_t *plain, size_t *len)
{
    const size_t room = *len;
    kaws_error first;             /* what came before the account was asked   */
    int may = kaws__trust_ask_first(&op->shared->trust, &op->target) &&
              kaws__arn_fits(&op->target, in->kms_key_arn);
    kaws_status status = !may ? KAWS_MISMATCH
        : kaws__kms_decrypt(op, KAWS__LEARNS, ctx, in, expect, plain, len);

    if (status != KAWS_MISMATCH && status != KAWS_DENIED &&
        status != KAWS_KMS_KEY)
        return status;
    first = *op->err;
    kaws__err_clear(op->err);
    *len = room;
    status = kaws__kms_learn_account(op);
    if (status == KAWS_OK)
        return kaws__kms_decrypt(op, 0, ctx, in, expect, plain, len);
    if (status != KAWS_DENIED || first.status == KAWS_OK ||
        strncmp(first.aws, "IncorrectKey", 12) == 0)
        return status;
    (void)kaws__err_set(&first, first.status, "%s (and whose account that is, "
                        "we could not ask: %s)", first.text, op->err->text);
    *op->err = first;
    return first.status;
}


/* ---- the other actions ------------------------------------------------- */

/* ReEncrypt: no plaintext leaves KMS. */
static kaws_status
kaws__kms_reencrypt_near(kaws__op *op, const kaws_context *ctx,
                         const kaws_sealed *in, kaws_sealed *out)
{
    static const kaws__action action = {
        "ReEncrypt", "DestinationKeyId", KAWS__OPENS,
        { "KeyId", "SourceKeyId", "CiphertextBlob", "DestinationKeyMaterialId" }
    };
    kaws__call c;

    kaws__calls_begin(&c, op, &action, &op->target, NULL);
    kaws__kms_put_data(&c, "CiphertextBlob", in->blob, in->blob_len);
    kaws__kms_put_text(&c, "SourceKeyId", in->kms_key_arn);
    kaws__kms_put_context(&c, "SourceEncryptionContext", ctx);
    kaws__kms_put_context(&c, "DestinationEncryptionContext", ctx);
    if (kaws__calls_send(&c) == KAWS_OK &&
        kaws__kms_expect_key(&c, KAWS__SOURCE, in->kms_key_arn) == KAWS_OK)
        (void)kaws__kms_take_sealed(&c, out);
    return kaws__calls_end(&c);
}


/* KMS cannot re-encrypt across regions, so the plaintext passes through us. If
 * we sealed a wrong key under the right name, nobody would ever notice. So KMS
 * decrypts the old blob a second time: both plaintexts must be equal. */
static kaws_status
kaws__kms_reencrypt_far(kaws__op *op, const kaws_context *ctx,
                        const kaws_sealed *in, size_t len, kaws_sealed *out)
{
    uint8_t plain[KAWS_PLAIN_MAX];
    kaws_bytes view = { plain, sizeof plain }, expect = { NULL, len };
    size_t none = 0;
    kaws_status status = kaws__kms_decrypt(op, 0, ctx, in, expect, plain,
                                           &view.len);

    if (status == KAWS_OK)
        status = kaws__kms_seal(op, ctx, view, NULL, out);
    if (status == KAWS_OK)
        status = kaws__kms_decrypt(op, 0, ctx, in, view, NULL, &none);
    if (status == KAWS_MISMATCH && view.len > 0)
        status = kaws__kms_mixed_up(op->shared, "AWS KMS opened a blob, and not"
                                    " to the same bytes a second time",
                                    op->err);
    kaws_wipe(plain, sizeof plain);
    return status;
}


/* Seals a key again, for the target. Within one region, KMS re-encrypts the
 * blob by itself. `len` is the key's length, or 0 if that is not known. */
static kaws_status
kaws__kms_reencrypt(kaws__op *op, const kaws_context *ctx,
                    const kaws_sealed *in, size_t len, kaws_sealed *out)
{
    kaws__target from;
    kaws_status status = kaws__kms_learn_account(op);

    if (status == KAWS_OK)
        status = kaws__trust_check(&op->shared->trust, in->kms_key_arn,
                                   KAWS__TO_OPEN, op->err);
    if (status == KAWS_OK)
        status = kaws__arn_target(&from, in->kms_key_arn, "", op->err);
    if (status != KAWS_OK)
        return status;
    return strcmp(from.region, op->target.region) == 0
         ? kaws__kms_reencrypt_near(op, ctx, in, out)
         : kaws__kms_reencrypt_far(op, ctx, in, len, out);
}


/* Rotates the target's KMS key. KMS rotates a key only so many times, so the
 * request is sent again only if AWS throttled it. The target must be an ARN,
 * because KMS rotates no alias. The reply may name the KMS key by its id. */
static kaws_status
kaws__kms_rotate(kaws__op *op)
{
    static const kaws__action action = {
        "RotateKeyOnDemand", "KeyId", KAWS__UNREPEATED | KAWS__APART,
        { "KeyId" }
    };
    const char *arn = op->target.key_id, *id = strchr(arn, '/') + 1;
    kaws__call c;

    kaws__calls_begin(&c, op, &action, &op->target, NULL);
    if (kaws__calls_send(&c) == KAWS_OK &&
        !kaws__buf_same(c.want[KAWS__KEY].value, kaws__buf_of(id)))
        (void)kaws__kms_expect_key(&c, KAWS__KEY, arn);
    return kaws__calls_end(&c);
}


/* Whether KMS answers us in the target's region. The KMS key is in another
 * region, so KMS refuses to describe it, but any refusal by KMS itself is an
 * answer. */
static kaws_status
kaws__kms_ask_region(kaws__op *op)
{
    static const kaws__action action = { "DescribeKey", "KeyId", 0, { NULL } };
    kaws__call c;
    kaws_status status;

    kaws__calls_begin(&c, op, &action, &op->target, NULL);
    status = kaws__calls_send(&c);
    if (c.typed && (status == KAWS_DENIED || status == KAWS_KMS_KEY ||
                    status == KAWS_ARGUMENT))
        kaws__err_clear(op->err);
    return kaws__calls_end(&c);
}


/* Whether the ring may use that KMS key. If KMS does not know the ring's first
 * KMS key, or denies it, the own account stays unknown. Then an id or alias may
 * be used, because it belongs to the account of our credentials; an ARN may
 * not. */
static kaws_status
kaws__kms_may_use(kaws__op *op, const char *key_id)
{
    kaws_status status = kaws__kms_learn_account(op);
    kaws__arn arn;

    if (kaws__arn_parse(kaws__buf_of(key_id), &arn))
        return status != KAWS_OK ? status
             : kaws__trust_check(&op->shared->trust, key_id, KAWS__TO_SEAL,
                                 op->err);
    if (status != KAWS_KMS_KEY && status != KAWS_DENIED)
        return status;
    kaws__err_clear(op->err);
    return KAWS_OK;
}


/* ==========================================================================
 * ROOM  scout    finds out, beside all calls, which regions could answer
 * ==========================================================================
 * Uses: thread err buf arn regions op route kms
 * Gives: scout_open scout_close scout_abandon scout_run
 *
 * Room route notes errands: a region that was unreachable may be well again, or
 * it is time to check the regions that would answer in home's place. A thread
 * runs them, so no caller waits for a host that may not answer. It is started
 * when a call ends, and ends with its errand. If the system gives no thread,
 * the caller runs the errand itself.
 *
 * Both send what a key needs: KMS makes and seals a byte. The check also asks
 * whether KMS would open it.
 */

typedef struct kaws__scout {
    kaws__shared *kms;
    kaws__lock   lock;            /* guards the next two                      */
    kaws__aside  thread;
    int          busy;            /* an errand is under way: it alone uses
                                   * what follows                             */
    kaws__errand errand;
    int          told;            /* the log says that all regions are ready  */
    int          alone;           /* it runs in a caller's thread             */
    int          stop;            /* it must end soon                         */
} kaws__scout;


static kaws_status
kaws__scout_open(kaws__scout *s, kaws__shared *kms, kaws_error *err)
{
    if (kaws__thread_lock_init(&s->lock, KAWS__RANK_SCOUT) != 0)
        return kaws__err_memory(err, "making a lock for the regions");
    s->kms = kms;
    return KAWS_OK;
}


/* For a forked child, which does not have the thread. */
static void
kaws__scout_abandon(kaws__scout *s)
{
    s->thread.runs = 0;
}


static void
kaws__scout_close(kaws__scout *s)
{
    kaws__thread_poke(&s->stop, 1);
    kaws__thread_aside_end(&s->thread);
    kaws__thread_lock_free(&s->lock);
}


/* Whether the errand must end. Its caller, if it has no thread of its own, may
 * be cancelled, too. */
static int
kaws__scout_stopped(void *arg)
{
    kaws__scout *s = arg;
    const kaws_hooks *hooks = s->kms->hooks;

    if (s->alone && hooks->cancelled != NULL && hooks->cancelled(hooks->ctx))
        kaws__thread_poke(&s->stop, 1);
    return kaws__thread_peek(&s->stop);
}


/* Has KMS in one place seal a byte with that KMS key; with `proof`, it also
 * says whether it would open it. */
static kaws_status
kaws__scout_ask(kaws__scout *s, const kaws__target *key, int only, int proof,
                kaws_error *err)
{
    kaws__op op = kaws__op_begin(s->kms, err);
    char trial[KAWS__ARN_MAX + 1] = "";
    kaws_sealed sealed;

    op.target = *key;
    op.at_home = only == 0;
    op.only = only;
    op.aside = 1;
    op.trial = trial;
    op.cancel = (kaws__cancel){ kaws__scout_stopped, s };
    kaws__err_clear(err);
    return kaws__kms_probe(&op, proof, &sealed);
}


/* What may help if that region could not answer. */
static const char *
kaws__scout_advice(const kaws_error *err)
{
    if (strncmp(err->aws, "NotFound", 8) == 0)
        return "; there may be no replica of the KMS key: make one (aws kms "
               "replicate-key), or take the region off failover_regions";
    if (err->status == KAWS_DENIED)
        return "; a replica has a key policy of its own: allow there what the "
               "KMS key's own region allows, and list the replica's ARN in the "
               "IAM policy";
    if (err->status == KAWS_CREDENTIALS)
        return "; the KMS key's own region accepts them, so check whether this "
               "region is enabled in the AWS account, and whether its URL in "
               "failover_regions, if it has one, belongs to it";
    return "";
}


/* Probes the region that the errand says. */
static void
kaws__scout_probe(kaws__scout *s, const kaws__errand *e)
{
    kaws_error err;

    if (e->what & KAWS__PROBE_DUE)
        (void)kaws__scout_ask(s, &e->probed, e->only, 0, &err);
}


/* Whether that region could answer in home's place. If not, warns; but not if
 * home, too, denies us to seal, because all that we need is to open then. */
static int
kaws__scout_check_one(kaws__scout *s, const kaws__target *key, int only)
{
    const char *region = s->kms->regions.to[only - 1].region;
    kaws_error err, at_home;

    if (kaws__scout_ask(s, key, only, 1, &err) == KAWS_OK)
        return 1;
    if (err.status != KAWS_CANCELLED &&
        (err.status != KAWS_DENIED ||
         kaws__scout_ask(s, key, 0, 0, &at_home) != KAWS_DENIED))
        kaws__err_log(s->kms->hooks, KAWS__LOG_NOT_READY, region, key->region,
                      err.text, kaws__scout_advice(&err));
    return 0;
}


/* Checks each region that could answer in home's place. That may take a while,
 * so probes that become due meanwhile come first. */
static void
kaws__scout_check(kaws__scout *s, const kaws__target *key)
{
    const kaws__regions *r = &s->kms->regions;
    char ready[KAWS__REGIONS_MAX * (KAWS__ARN_REGION_MAX + 3)] = "";
    kaws__buf list = kaws__buf_fixed(ready, sizeof ready - 1);
    kaws__errand due;
    int i, lacking = 0;

    for (i = 0; i < r->count && !kaws__scout_stopped(s); i++) {
        if (!kaws__regions_serves(r, i, key->region))
            continue;
        due = kaws__route_errand(s->kms, KAWS__PROBE_DUE);
        kaws__scout_probe(s, &due);
        if (kaws__scout_check_one(s, key, i + 1))
            kaws__buf_text(&list, list.len > 0 ? ", " : "", r->to[i].region);
        else
            lacking = 1;
    }
    if (!lacking && list.len > 0 && !s->told)
        kaws__err_log(s->kms->hooks, KAWS__LOG_READY, ready, key->region);
    s->told = !lacking;
}


static void
kaws__scout_work(void *arg)
{
    kaws__scout *s = arg;

    kaws__scout_probe(s, &s->errand);
    if (s->errand.what & KAWS__CHECK_DUE)
        kaws__scout_check(s, &s->errand.checked);
    kaws__thread_lock(&s->lock);
    if (s->alone)
        kaws__thread_poke(&s->stop, 0);   /* only that call was cancelled     */
    s->busy = s->alone = 0;
    kaws__thread_unlock(&s->lock);
}


/* Runs what is due, unless the last errand is still under way. */
static void
kaws__scout_run(kaws__scout *s)
{
    int alone = 0;

    if (kaws__thread_peek(&s->kms->errand.what) == 0)
        return;
    kaws__thread_lock(&s->lock);
    if (!s->busy && kaws__thread_peek(&s->kms->errand.what) != 0) {
        kaws__thread_aside_end(&s->thread);
        s->errand = kaws__route_errand(s->kms, KAWS__ANY_DUE);
        s->busy = 1;
        alone = !kaws__thread_aside(&s->thread, kaws__scout_work, s);
        if (alone)
            s->alone = 1;
    }
    kaws__thread_unlock(&s->lock);
    if (alone)
        kaws__scout_work(s);
}


/* ==========================================================================
 * ROOM  pack     sealed values as bytes that travel
 * ==========================================================================
 * Uses: err buf arn
 * Gives: kaws_sealed_pack kaws_sealed_unpack
 *
 * Section 7 of the manual has the diagram. Bytes to unpack may come from an
 * attacker, and a value to pack may be a caller's mistake. So one function
 * checks the parts in both directions.
 */

#define KAWS__PACK_MAGIC   "KAWSSEAL"
#define KAWS__PACK_VERSION  1
#define KAWS__PACK_FIXED   16     /* bytes before the parts                   */

/* The parts, in their order. */
enum { KAWS__PACK_ARN, KAWS__PACK_MATERIAL, KAWS__PACK_BLOB, KAWS__PACK_PARTS };


/* The text in an array: up to its NUL, or the whole array if there is none. */
static kaws_bytes
kaws__pack_text(const char *array, size_t size)
{
    const char *end = memchr(array, 0, size);

    return (kaws_bytes){ (const uint8_t *)array,
                         end != NULL ? (size_t)(end - array) : size };
}


/* Returns NULL, or what is wrong. */
static const char *
kaws__pack_refuse(const kaws_bytes parts[KAWS__PACK_PARTS])
{
    kaws_bytes material = parts[KAWS__PACK_MATERIAL];
    kaws_bytes blob = parts[KAWS__PACK_BLOB];
    kaws__arn arn;

    if (!kaws__arn_parse(parts[KAWS__PACK_ARN], &arn) ||
        arn.resource.at[0] != 'k')
        return "it does not name its KMS key by an ARN";
    if (material.len > 64 || (material.len > 0 && !kaws__arn_word_ok(material)))
        return "its key material id cannot be one";
    if (blob.len == 0 || blob.len > 6144)
        return "its blob does not have 1 to 6144 bytes";
    return NULL;
}


/* Returns NULL, or what is wrong. */
static const char *
kaws__pack_write(kaws__buf *out, const kaws_sealed *in)
{
    const kaws_bytes parts[KAWS__PACK_PARTS] = {
        kaws__pack_text(in->kms_key_arn, sizeof in->kms_key_arn),
        kaws__pack_text(in->key_material_id, sizeof in->key_material_id),
        { in->blob, in->blob_len }
    };
    uint8_t fixed[KAWS__PACK_FIXED] = KAWS__PACK_MAGIC;
    const char *wrong = kaws__pack_refuse(parts);
    size_t i;

    if (wrong != NULL)
        return wrong;
    fixed[8] = KAWS__PACK_VERSION;
    for (i = 0; i < KAWS__PACK_PARTS; i++) {
        fixed[10 + 2 * i] = (uint8_t)parts[i].len;
        fixed[11 + 2 * i] = (uint8_t)(parts[i].len >> 8);
    }
    kaws__buf_put(out, fixed, sizeof fixed);
    for (i = 0; i < KAWS__PACK_PARTS; i++)
        kaws__buf_put(out, parts[i].at, parts[i].len);
    return out->failed ? "the buffer is too small for it" : NULL;
}


/* see Part II */
KAWS_API kaws_status
kaws_sealed_pack(const kaws_sealed *in, uint8_t *out, size_t *out_len,
                 kaws_error *err)
{
    const size_t room = out != NULL && out_len != NULL ? *out_len : 0;
    const char *wrong = "in, out and out_len must not be NULL";
    kaws__buf packed = kaws__buf_fixed(out, room);

    kaws__err_clear(err);
    if (in != NULL && out != NULL && out_len != NULL)
        wrong = kaws__pack_write(&packed, in);
    if (out_len != NULL)
        *out_len = wrong == NULL ? packed.len : 0;
    if (wrong == NULL)
        return KAWS_OK;
    if (room > 0)
        memset(out, 0, room);
    return kaws__err_set(err, KAWS_ARGUMENT, "cannot pack the sealed value: %s",
                         wrong);
}


/* Two bytes, little-endian. */
static unsigned
kaws__pack_number(const uint8_t *at)
{
    return (unsigned)(at[0] | at[1] << 8);
}


/* Points at the parts. Returns NULL, or what is wrong. */
static const char *
kaws__pack_split(kaws_bytes packed, kaws_bytes parts[KAWS__PACK_PARTS])
{
    size_t at = KAWS__PACK_FIXED, i;

    for (i = 0; i < KAWS__PACK_PARTS; i++) {
        parts[i].len = kaws__pack_number(packed.at + 10 + 2 * i);
        if (parts[i].len > packed.len - at)
            return "it is cut off";
        parts[i].at = packed.at + at;
        at += parts[i].len;
    }
    return at < packed.len ? "there are bytes behind its end"
                           : kaws__pack_refuse(parts);
}


/* see Part II */
KAWS_API kaws_status
kaws_sealed_unpack(kaws_bytes packed, kaws_sealed *out, kaws_error *err)
{
    kaws_bytes parts[KAWS__PACK_PARTS];
    const char *wrong = NULL;

    kaws__err_clear(err);
    if (out != NULL)
        memset(out, 0, sizeof *out);
    if (out == NULL || packed.at == NULL)
        wrong = "packed and out must not be NULL";
    else if (packed.len < KAWS__PACK_FIXED ||
             memcmp(packed.at, KAWS__PACK_MAGIC, 8) != 0)
        wrong = "these bytes are not one";
    else if (kaws__pack_number(packed.at + 8) != KAWS__PACK_VERSION)
        return kaws__err_set(err, KAWS_ARGUMENT, "cannot unpack the sealed "
                             "value: it has format version %u, and this "
                             "keyring_aws knows version 1: use a newer one",
                             kaws__pack_number(packed.at + 8));
    else
        wrong = kaws__pack_split(packed, parts);
    if (wrong != NULL)
        return kaws__err_set(err, KAWS_ARGUMENT, "cannot unpack the sealed "
                             "value: %s", wrong);
    (void)kaws__buf_copy_text(out->kms_key_arn, sizeof out->kms_key_arn,
                              parts[KAWS__PACK_ARN]);
    (void)kaws__buf_copy_text(out->key_material_id,
                              sizeof out->key_material_id,
                              parts[KAWS__PACK_MATERIAL]);
    out->blob_len = parts[KAWS__PACK_BLOB].len;
    memcpy(out->blob, parts[KAWS__PACK_BLOB].at, out->blob_len);
    return KAWS_OK;
}


/* ==========================================================================
 * ROOM  store    the data file's format, byte for byte
 * ==========================================================================
 * Uses: err buf text crypto arn
 * Gives: store_get store_committed store_header store_digest store_record
 *        store_record_len store_next store_type_ok store_is_named
 *        store_split store_parse store_damaged store_damaged_end
 *        store_check_header store_check store_begins
 *
 * Section 7 of the manual has the diagram. Only this room knows the offset of
 * each field. It knows nothing of disks. A record ends before its digest: the
 * table holds the same bytes.
 */

#define KAWS__STORE_VERSION      1
#define KAWS__STORE_CONTEXT      1  /* the rule of the encryption context     */
#define KAWS__STORE_HEADER      80
#define KAWS__STORE_COMMITTED   32  /* offset of the committed length and its
                                     * check, 16 bytes that no digest covers  */
#define KAWS__STORE_DIGESTED    48  /* bytes that the header's digest covers  */
#define KAWS__STORE_DIGEST      32
#define KAWS__STORE_FIXED       32  /* bytes of a record before its texts     */
#define KAWS__STORE_RECORD_MAX (32 + 255 + 255 + 15 + 255 + 64 + 6144)
#define KAWS__STORE_APPEND_MAX (KAWS__STORE_RECORD_MAX + KAWS__STORE_DIGEST)

static const char kaws__store_magic[] = "KAWSRING";

typedef struct kaws__record {
    kaws_bytes key_id, user_id, type, arn, material, blob;
    size_t     plain_len;
    int64_t    created;           /* Unix seconds                             */
    kaws_bytes owner;             /* the ARN up to its account: after parse   */
} kaws__record;

/* The texts of a record, in the order in which they follow its fixed part; and
 * where the fixed part has the length of each. */
static const struct { uint8_t at, bytes; size_t member; }
kaws__store_texts[] = {
    { 10, 1, offsetof(kaws__record, key_id) },
    { 11, 1, offsetof(kaws__record, user_id) },
    {  9, 1, offsetof(kaws__record, type) },
    { 14, 2, offsetof(kaws__record, arn) },
    { 18, 2, offsetof(kaws__record, material) },
    { 16, 2, offsetof(kaws__record, blob) }
};

enum { KAWS__STORE_TEXTS = 6 };

typedef struct kaws__found {      /* what a check of a whole file found       */
    uint8_t      file_id[16];
    uint32_t     epoch;
    uint64_t     committed;       /* this many bytes were acknowledged        */
    uint64_t     good;            /* this many bytes match their digests      */
    int          torn;            /* the rest is an append that was cut off   */
    kaws__sha256 state;           /* over the good bytes                      */
} kaws__found;


/* ---- little-endian numbers --------------------------------------------- */

static void
kaws__store_put(uint8_t *at, uint64_t value, int bytes)
{
    while (bytes-- > 0) {
        *at++ = (uint8_t)value;
        value >>= 8;
    }
}


static uint64_t
kaws__store_get(const uint8_t *at, int bytes)
{
    uint64_t value = 0;

    while (bytes-- > 0)
        value = value << 8 | at[bytes];
    return value;
}


/* ---- header and digests ------------------------------------------------ */

/* Writes the 16 bytes at offset 32: 8 bytes of committed length, and the first
 * 8 bytes of the SHA-256 of the file id and those 8. */
static void
kaws__store_committed(uint8_t out[16], const uint8_t file_id[16],
                      uint64_t committed)
{
    uint8_t both[24], digest[32];

    memcpy(both, file_id, 16);
    kaws__store_put(both + 16, committed, 8);
    kaws__crypto_sha256(digest, (kaws_bytes){ both, sizeof both });
    memcpy(out, both + 16, 8);
    memcpy(out + 8, digest, 8);
}


/* Computes the digest that ends the header or an entry. It covers all bytes of
 * the file before it, `data` included. Afterwards the state covers the digest,
 * too. */
static void
kaws__store_digest(kaws__sha256 *state, kaws_bytes data, uint8_t digest[32])
{
    kaws__crypto_update(state, data.at, data.len);
    kaws__crypto_out(state, digest);
    kaws__crypto_update(state, digest, KAWS__STORE_DIGEST);
}


/* Writes the header, and begins the state, which then covers it. Offset 0:
 * magic, 8; format version, 4; epoch, 4; file id, 16; committed length and its
 * check, 16; digest, 32. */
static void
kaws__store_header(uint8_t header[KAWS__STORE_HEADER], kaws__sha256 *state,
                   const uint8_t file_id[16], uint32_t epoch,
                   uint64_t committed)
{
    memset(header, 0, KAWS__STORE_DIGESTED);
    memcpy(header, kaws__store_magic, 8);
    kaws__store_put(header + 8, KAWS__STORE_VERSION, 4);
    kaws__store_put(header + 12, epoch, 4);
    memcpy(header + 16, file_id, 16);
    kaws__crypto_init(state);
    kaws__store_digest(state, (kaws_bytes){ header, KAWS__STORE_DIGESTED },
                       header + KAWS__STORE_DIGESTED);
    kaws__store_committed(header + KAWS__STORE_COMMITTED, file_id, committed);
}


/* ---- a record ---------------------------------------------------------- */

/* Offset 0: length of the record, 4; its complement, 4; context version, 1;
 * lengths of type, 1; key id, 1; user id, 1; plain, 2; ARN, 2; blob, 2;
 * material id, 2; zero, 4; created, 8; then the texts. */
static void
kaws__store_record(kaws__buf *out, const kaws__record *r)
{
    uint8_t fixed[KAWS__STORE_FIXED] = { 0 };
    kaws_bytes texts[KAWS__STORE_TEXTS];
    uint32_t len = sizeof fixed;
    size_t i;

    for (i = 0; i < KAWS__STORE_TEXTS; i++) {
        memcpy(&texts[i], (const char *)r + kaws__store_texts[i].member,
               sizeof texts[i]);
        kaws__store_put(fixed + kaws__store_texts[i].at, texts[i].len,
                        kaws__store_texts[i].bytes);
        len += (uint32_t)texts[i].len;
    }
    kaws__store_put(fixed, len, 4);
    kaws__store_put(fixed + 4, ~len, 4);
    fixed[8] = KAWS__STORE_CONTEXT;
    kaws__store_put(fixed + 12, r->plain_len, 2);
    kaws__store_put(fixed + 24, (uint64_t)r->created, 8);
    kaws__buf_put(out, fixed, sizeof fixed);
    for (i = 0; i < KAWS__STORE_TEXTS; i++)
        kaws__buf_put(out, texts[i].at, texts[i].len);
}


/* The length in the first 8 bytes of a record; 0 if it does not match its
 * complement, or if no record can have that length. */
static size_t
kaws__store_record_len(const uint8_t *at)
{
    uint32_t len = (uint32_t)kaws__store_get(at, 4);

    if ((uint32_t)kaws__store_get(at + 4, 4) != (uint32_t)~len ||
        len < KAWS__STORE_FIXED || len > KAWS__STORE_RECORD_MAX)
        return 0;
    return len;
}


/* The record that begins at `at`. Its length is 0 if `all` does not hold the
 * whole record and its digest. */
static kaws_bytes
kaws__store_next(kaws_bytes all, size_t at)
{
    kaws_bytes record = { all.at + at, 0 };
    size_t left = all.len - at;

    if (left >= 8)
        record.len = kaws__store_record_len(record.at);
    if (left < record.len + KAWS__STORE_DIGEST)
        record.len = 0;
    return record;
}


static int
kaws__store_type_ok(kaws_bytes type)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789_-";
    size_t i;

    for (i = 0; i < type.len; i++)
        if (memchr(allowed, kaws__text_lower(type.at[i]),
                   sizeof allowed - 1) == NULL)
            return 0;
    return type.len > 0 && type.len <= 15;
}


/* Whether the record has that name. It must have been parsed before. A search
 * for a key calls this for each record that it meets. */
static int
kaws__store_is_named(const uint8_t *record, kaws_bytes key_id,
                     kaws_bytes user_id)
{
    const uint8_t *name = record + KAWS__STORE_FIXED;

    return record[10] == key_id.len && record[11] == user_id.len &&
           memcmp(name, key_id.at, key_id.len) == 0 &&
           memcmp(name + key_id.len, user_id.at, user_id.len) == 0;
}


/* Takes a record apart, and checks nothing but its lengths; 0 if they do not
 * add up. */
static int
kaws__store_split(kaws_bytes bytes, kaws__record *r)
{
    size_t at = KAWS__STORE_FIXED, i;
    kaws_bytes text;

    for (i = 0; i < KAWS__STORE_TEXTS; i++, at += text.len) {
        text.len = (size_t)kaws__store_get(
                       bytes.at + kaws__store_texts[i].at,
                       kaws__store_texts[i].bytes);
        if (text.len > bytes.len - at)
            return 0;
        text.at = bytes.at + at;
        memcpy((char *)r + kaws__store_texts[i].member, &text, sizeof text);
    }
    r->plain_len = (size_t)kaws__store_get(bytes.at + 12, 2);
    r->created = (int64_t)kaws__store_get(bytes.at + 24, 8);
    return at == bytes.len;
}


/* Takes a record apart, and checks every field, because an attacker may have
 * written it. Returns NULL, or what is wrong. */
static const char *
kaws__store_parse(kaws_bytes bytes, kaws__record *r)
{
    kaws__arn arn;

    memset(r, 0, sizeof *r);
    if (bytes.len < KAWS__STORE_FIXED ||
        kaws__store_record_len(bytes.at) != bytes.len)
        return "an entry's length does not match its check";
    if (bytes.at[8] != KAWS__STORE_CONTEXT)
        return "an entry was written by a newer version of keyring_aws";
    if (!kaws__store_split(bytes, r))
        return "the lengths in an entry do not add up";
    if (kaws__store_get(bytes.at + 20, 4) != 0 || r->key_id.len == 0 ||
        memchr(r->key_id.at, 0, r->key_id.len + r->user_id.len) != NULL ||
        !kaws__store_type_ok(r->type) || r->material.len > 64 ||
        r->blob.len == 0 || r->blob.len > 6144 || r->plain_len == 0 ||
        r->plain_len > KAWS_PLAIN_MAX || r->created < 0 ||
        r->created > 253402300799)
        return "an entry has a field that no entry can have";
    if (!kaws__arn_parse(r->arn, &arn) || arn.resource.at[0] != 'k')
        return "an entry's KMS key is not the ARN of one";
    r->owner = (kaws_bytes){ r->arn.at, (size_t)(arn.resource.at - r->arn.at) };
    return NULL;
}


/* ---- a whole file ------------------------------------------------------ */

/* `name` is the file's name, for the message only. */
static kaws_status
kaws__store_damaged(const char *name, uint64_t at, const char *what,
                    kaws_error *err)
{
    return kaws__err_set(err, KAWS_CORRUPT, "the data file %s is damaged at "
                         "byte %s: %s; nothing was changed; restore it from "
                         "a backup", name, KAWS__DECIMAL(at), what);
}


/* From `at` on there is no good entry, and no torn end. */
static kaws_status
kaws__store_damaged_end(const char *name, uint64_t at, uint64_t size,
                        uint64_t committed, kaws_error *err)
{
    int surplus = at >= committed && size - at > KAWS__STORE_APPEND_MAX;

    return kaws__store_damaged(name, at, surplus
                               ? "what follows is not entries, and too long "
                                 "for one that was cut off (a copy of the file "
                                 "up to there has all older entries)"
                               : "the entry there does not match its checksum",
                               err);
}


/* `size` is the file's size. `at` holds its first KAWS__STORE_HEADER bytes, or
 * all of them if it has fewer. */
static kaws_status
kaws__store_check_header(const char *name, const uint8_t *at, uint64_t size,
                         kaws__found *found, kaws_error *err)
{
    uint8_t header[KAWS__STORE_HEADER];

    if (size == 0)
        return kaws__err_set(err, KAWS_CORRUPT, "the data file %s is empty (0 "
                             "bytes), and a keyring never is: restore it from "
                             "a backup; only if it has had no key yet, remove "
                             "it", name);
    if (size < sizeof header || memcmp(at, kaws__store_magic, 8) != 0)
        return kaws__store_damaged(name, 0, "it is not a data file of "
                                   "keyring_aws: its name may be wrong", err);
    if (kaws__store_get(at + 8, 4) != KAWS__STORE_VERSION)
        return kaws__err_set(err, KAWS_CORRUPT, "the data file %s has format "
                             "version %s, at byte 8, and this keyring_aws "
                             "knows version 1: use a newer one", name,
                             KAWS__DECIMAL(kaws__store_get(at + 8, 4)));
    found->epoch = (uint32_t)kaws__store_get(at + 12, 4);
    memcpy(found->file_id, at + 16, 16);
    found->committed = kaws__store_get(at + KAWS__STORE_COMMITTED, 8);
    kaws__store_header(header, &found->state, found->file_id, found->epoch,
                       found->committed);
    if (memcmp(header + KAWS__STORE_COMMITTED,
               at + KAWS__STORE_COMMITTED, 16) != 0)
        return kaws__store_damaged(name, KAWS__STORE_COMMITTED, "the committed "
                                   "length does not match its check", err);
    if (found->committed > size)
        return kaws__store_damaged(name, size, "it ends there, but more "
                                   "was written and acknowledged", err);
    if (memcmp(header, at, sizeof header) != 0)
        return kaws__store_damaged(name, 0, "the header's checksum is wrong",
                                   err);
    return KAWS_OK;
}


/* Whether a sector, from `start` on, is all zeros, because it never reached the
 * disk. A sector has 512 bytes. Of the first one, only what follows `start`
 * counts; of the last one, only what the file has. */
static int
kaws__store_has_hole(kaws_bytes all, size_t start)
{
    size_t from = start, to, i;

    for (; from < all.len; from = to) {
        to = (from / 512 + 1) * 512;
        to = to < all.len ? to : all.len;
        for (i = from; i < to && all.at[i] == 0; i++)
            continue;
        if (i == to)
            return 1;
    }
    return 0;
}


/* The bytes from `at` on are wrong. Are they the end of an append that was
 * never acknowledged, or damage? */
static int
kaws__store_is_torn(kaws_bytes all, size_t at, uint64_t committed)
{
    size_t left = all.len - at, whole;

    if (at < committed || left > KAWS__STORE_APPEND_MAX)
        return 0;
    if (left < 8)
        return 1;
    whole = kaws__store_record_len(all.at + at);
    if (whole == 0)
        return kaws__store_has_hole(all, at);
    whole += KAWS__STORE_DIGEST;
    return left < whole || (left == whole && kaws__store_has_hole(all, at));
}


/* Checks digest by digest, to find the place where a file goes wrong. */
static kaws_status
kaws__store_walk(const char *name, kaws_bytes all, kaws__found *found,
                 kaws_error *err)
{
    size_t at = KAWS__STORE_HEADER;
    uint8_t digest[32];
    kaws_bytes record;

    while ((record = kaws__store_next(all, at)).len > 0) {
        kaws__sha256 state = found->state;
        kaws__store_digest(&state, record, digest);
        if (!kaws__crypto_equal(digest, record.at + record.len))
            break;
        found->state = state;
        at += record.len + sizeof digest;
    }
    found->good = at;
    found->torn = at < all.len;
    if (found->torn && !kaws__store_is_torn(all, at, found->committed))
        return kaws__store_damaged_end(name, at, all.len, found->committed,
                                       err);
    return KAWS_OK;
}


/* Checks a whole file. Returns KAWS_OK if all of it is right, or all but a torn
 * end (found->torn); otherwise the error names the place. A file that is right
 * is hashed only once. */
static kaws_status
kaws__store_check(const char *name, kaws_bytes all, kaws__found *found,
                  kaws_error *err)
{
    kaws_bytes entries;
    uint8_t digest[32];
    kaws__sha256 state;
    kaws_status status;

    memset(found, 0, sizeof *found);
    status = kaws__store_check_header(name, all.at, all.len, found, err);
    if (status != KAWS_OK)
        return status;
    if (all.len < KAWS__STORE_HEADER + sizeof digest)
        return kaws__store_walk(name, all, found, err);
    entries.at = all.at + KAWS__STORE_HEADER;
    entries.len = all.len - KAWS__STORE_HEADER - sizeof digest;
    state = found->state;
    kaws__store_digest(&state, entries, digest);
    if (!kaws__crypto_equal(digest, entries.at + entries.len))
        return kaws__store_walk(name, all, found, err);
    found->state = state;
    found->good = all.len;
    return KAWS_OK;
}


/* Whether a file begins with the bytes of another file: `size` bytes, of which
 * the last 32 are `sum`, the digest of the others. */
static int
kaws__store_begins(kaws_bytes all, uint64_t size, const uint8_t sum[32])
{
    static const uint8_t zeros[KAWS__STORE_DIGESTED - KAWS__STORE_COMMITTED];
    size_t end = (size_t)size - KAWS__STORE_DIGEST;
    uint8_t digest[32];
    kaws__sha256 hash;

    if (all.len < size || !kaws__crypto_equal(all.at + end, sum))
        return 0;
    kaws__crypto_init(&hash);
    kaws__crypto_update(&hash, all.at, KAWS__STORE_COMMITTED);
    kaws__crypto_update(&hash, zeros, sizeof zeros);
    kaws__crypto_update(&hash, all.at + KAWS__STORE_DIGESTED,
                        end - KAWS__STORE_DIGESTED);
    kaws__crypto_out(&hash, digest);
    return kaws__crypto_equal(digest, sum);
}


/* ==========================================================================
 * ROOM  file     the data file: its names, its locks, and is it still ours?
 * ==========================================================================
 * Uses: sys thread disk err mem buf text crypto store
 * Gives: file_error file_result file_missing file_refuse file_sync_dir
 *        file_open file_close file_apart file_hold file_release file_id
 *        file_sum file_leave file_compare file_change file_changed
 *        file_advance file_differs file_may_go_on file_again file_take
 *        file_looks_right file_mend_links file_read
 *
 * This room identifies a file by its device, inode, size, times and last 32
 * bytes. It knows nothing of keys. Before each change, the path must still name
 * that very file. A file that somebody else put there is not touched.
 *
 * Two slots of <path>.lock are locked. Slot 0 is locked, shared, for as long as
 * the file is open: so other processes see that we use it. Slot 1 is locked
 * during a change. <path>.lock is never removed; otherwise two processes could
 * lock two different files. Then the same two slots of the data file itself are
 * locked, because it may have a second name, with a lock file of its own. These
 * locks count as long as the path names that file.
 */

#define KAWS__FILE_WAIT_MS    2000  /* for another process's change           */
#define KAWS__FILE_SMALL   1048576  /* bytes: read without a survey           */
#define KAWS__FILE_LARGE 268435456  /* bytes: surveyed even without holes     */
#define KAWS__FILE_TORN ".torn-YYYYMMDDTHHMMSSZ-99"   /* the longest suffix   */
#define KAWS__FILE_UNCHANGED "; nothing was changed"
#define KAWS__FILE_NOT_PLAIN "is not a plain file"

typedef struct kaws__file {
    const kaws_hooks *hooks;
    int      read_only, must_exist;
    char    *names;               /* one block for the six below              */
    size_t   names_len;
    char    *path, *tmp, *lock, *aside, *dir, *above;
    char     shown[KAWS__TEXT_SHOWN], dir_shown[KAWS__TEXT_SHOWN];
    int      lock_fd;             /* -1: a reader found none to lock          */
    int      fd;                  /* the file itself, or -1                   */
    int      made_dir;            /* we have made the folder                  */
    int      in_use;              /* by others, too: that was logged          */
    int      exists;
    uint8_t  file_id[16];
    uint32_t epoch;               /* carried on as it was found               */
    kaws__stat stat;              /* the file's, after our last change        */
    uint64_t size;                /* the bytes that count                     */
    uint8_t  sum[32];             /* the last of those: the digest of the rest*/
    kaws__sha256 state;           /* over all of those                        */
    uint64_t torn;                /* bytes behind them, to be set aside       */
    uint8_t  tail[32];            /* the last bytes, torn or not              */
    int      copied;              /* the torn end is copied, not yet cut off  */
    uint64_t committed;           /* the length that the file said at open    */
    int      unsettled;           /* what was read may not be durable yet     */
    int      synced;              /* but it was synced: see save_settle       */
} kaws__file;

/* How to open it. */
enum { KAWS__OR_NEW, KAWS__TO_READ, KAWS__IF_THERE };


/* ---- what goes wrong, in words ----------------------------------------- */

static kaws_status
kaws__file_error(const kaws__file *f, kaws_status status, const char *what,
                 kaws_error *err)
{
    return kaws__err_set(err, status, "the data file %s %s", f->shown, what);
}


/* KAWS_OK if `os` is 0. `then`: what follows from the failure, such as
 * KAWS__FILE_UNCHANGED, or "". */
static kaws_status
kaws__file_result(const kaws__file *f, int os, const char *what,
                  const char *then, kaws_error *err)
{
    return os == 0 ? KAWS_OK
         : kaws__err_os(err, KAWS_FILE, os, "cannot %s the data file %s%s",
                        what, f->shown, then);
}


/* There is no file where one has to be. */
static kaws_status
kaws__file_missing(const kaws__file *f, kaws_error *err)
{
    (void)kaws__err_set(err, KAWS_FILE, "there is no data file %s, and none is "
                        "made (%s); mount its volume, or put the file back; to "
                        "begin a new keyring, leave that setting out",
                        f->shown, f->read_only ? "read_only"
                        : "must_exist; in MySQL keyring_aws_create = OFF");
    if (err != NULL)
        err->os = ENOENT;
    return KAWS_FILE;
}


/* Refuses a change, because the file differs from the one that we know. If
 * `differs` is NULL, the system did not let us do `what`; `os` says why, and
 * may also mean that the file differs. */
static kaws_status
kaws__file_refuse(const kaws__file *f, int os, const char *differs,
                  const char *what, kaws_error *err)
{
    if (differs == NULL && os == EEXIST)
        differs = "a file has appeared in its place";
    if (differs == NULL && f->exists &&
        (os == ENOENT || os == ELOOP || os == EISDIR || os == ENXIO))
        differs = kaws__sys_error_text(os);
    if (differs == NULL)
        return kaws__file_result(f, os, what, KAWS__FILE_UNCHANGED, err);
    return kaws__err_set(err, KAWS_CHANGED, "the data file %s is not the one "
                         "that this keyring wrote: %s; nothing was changed; "
                         "put the right file back or, if it is this one, "
                         "refresh the keyring, which then has the keys in it "
                         "(kaws_refresh; in MySQL keyring_aws_refresh())",
                         f->shown, differs);
}


/* ---- names, folder, locks ---------------------------------------------- */

static kaws_status
kaws__file_names(kaws__file *f, const char *path, kaws_error *err)
{
    static const char *const suffixes[] = { "", ".tmp", ".lock",
                                            KAWS__FILE_TORN };
    char **const names[] = { &f->path, &f->tmp, &f->lock, &f->aside };
    size_t n = strlen(path) + sizeof KAWS__FILE_TORN, i;
    const char *slash = kaws__disk_last_slash(path);
    int len = slash == NULL || slash == path ? 1 : (int)(slash - path);

    f->names_len = 6 * n;
    f->names = kaws__mem_new(f->hooks, f->names_len);
    if (f->names == NULL)
        return kaws__err_memory(err, "opening the data file");
    for (i = 0; i < 4; i++) {
        *names[i] = f->names + i * n;
        (void)snprintf(*names[i], n, "%s%s", path, suffixes[i]);
    }
    f->dir = f->names + 4 * n;
    f->above = f->names + 5 * n;
    (void)snprintf(f->dir, n, "%.*s", len, slash == NULL ? "." : path);
    (void)snprintf(f->above, n, "%s/..", f->dir); /* right for a link, too    */
    kaws__text_show(f->shown, sizeof f->shown, kaws__buf_of(path));
    kaws__text_show(f->dir_shown, sizeof f->dir_shown, kaws__buf_of(f->dir));
    return KAWS_OK;
}


/* Makes the data file's folder if it is missing, but no folder above it, and
 * checks it. The folder must allow the longest name that a change may need,
 * which is f->aside: trying to open that shows whether it does. */
static kaws_status
kaws__file_enter_dir(kaws__file *f, kaws_error *err)
{
    kaws__stat st;
    int fd = -1, os = f->read_only || f->must_exist
                    ? EEXIST : kaws__disk_make_dir(f->dir);

    f->made_dir = os == 0;
    if (os != 0 && os != EEXIST)
        return kaws__file_result(f, os, "make the folder of", "", err);
    if (f->made_dir)
        kaws__err_log(f->hooks, KAWS__LOG_MADE_FOLDER, f->dir_shown);
    os = f->read_only ? 0 : kaws__disk_open(f->aside, KAWS__READ, &fd);
    kaws__disk_close(fd);
    if (os == ENAMETOOLONG)
        return kaws__err_os(err, KAWS_FILE, os, "the data file %s needs a "
                            "shorter name: a torn end would be moved to a "
                            "name of %d bytes more", f->shown,
                            (int)sizeof KAWS__FILE_TORN - 1);
    if (os == 0 || os == ENOENT)
        os = kaws__disk_open(f->dir, KAWS__FOLDER, &fd);
    if (os == 0 && (os = kaws__disk_stat(fd, NULL, &st)) == 0)
        kaws__err_others(f->hooks, "the data file's folder", f->dir_shown, &st);
    kaws__disk_close(fd);
    return f->read_only ? KAWS_OK
         : kaws__file_result(f, os, "open the folder of", "", err);
}


static int
kaws__file_sync_dir(const char *path)
{
    int fd, os = kaws__disk_open(path, KAWS__FOLDER, &fd);

    if (os == 0)
        os = kaws__disk_sync_dir(fd);
    kaws__disk_close(fd);
    return os;
}


/* Locks slot 0, for as long as the file is open. Logs a warning if other
 * processes have locked it, too. */
static int
kaws__file_join(kaws__file *f, int fd)
{
    int os = kaws__disk_lock(fd, 0, 0);

    if (os == 0 && !f->in_use && kaws__disk_locked_by_others(fd, 0)) {
        f->in_use = 1;
        kaws__err_log(f->hooks, KAWS__LOG_IN_USE, f->shown,
                      fd == f->lock_fd ? "" : ", by another name, or since "
                      "before its .lock was removed");
    }
    return os;
}


static void
kaws__file_close(kaws__file *f)
{
    kaws__disk_close(f->lock_fd);
    kaws__disk_close(f->fd);
    kaws__mem_free(f->hooks, f->names, f->names_len);
    f->lock_fd = f->fd = -1;
    f->names = NULL;
}


/* Fills in the names, and takes the lock that shows others that we use the
 * file. kaws__file_read reads the file later. But if the file must exist and
 * does not, this function fails, so that no .lock is made beside it. If it
 * fails, nothing is left to close. */
static kaws_status
kaws__file_open(kaws__file *f, const kaws_hooks *hooks, const char *path,
                int how, kaws_error *err)
{
    int read_only = how == KAWS__TO_READ, os;
    kaws_status status;
    kaws__stat st;

    *f = (kaws__file){ .hooks = hooks, .read_only = read_only, .lock_fd = -1,
                       .must_exist = how == KAWS__IF_THERE, .fd = -1 };
    status = kaws__file_names(f, path, err);
    if (status == KAWS_OK && f->must_exist &&
        kaws__disk_stat(-1, path, &st) == ENOENT)
        status = kaws__file_missing(f, err);
    if (status == KAWS_OK &&
        (status = kaws__file_enter_dir(f, err)) == KAWS_OK) {
        os = kaws__disk_open(f->lock, read_only ? KAWS__READ : KAWS__LOCKFILE,
                             &f->lock_fd);
        if (os == 0)
            os = kaws__file_join(f, f->lock_fd);
        if (!read_only) {
            status = kaws__file_result(f, os, "open and lock the .lock of", "",
                                       err);
        } else if (os != 0) {             /* a reader goes on: see file_reach */
            kaws__disk_close(f->lock_fd);
            f->lock_fd = -1;
        }
    }
    if (status != KAWS_OK)
        kaws__file_close(f);
    return status;
}


/* Checks that `other`, the value of that setting, is not one of our three
 * files, and if it is a link, that the link is not either. If it were .tmp, for
 * example, the first change would remove it. */
static kaws_status
kaws__file_apart(const kaws__file *f, const char *other, const char *setting,
                 kaws_error *err)
{
    const char *const names[] = { f->path, f->tmp, f->lock };
    kaws__stat ours, its, link;
    int fd = -1, i, os;

    if (other == NULL || kaws__disk_open(other, KAWS__READ_LINKED, &fd) != 0)
        return KAWS_OK;                   /* its reader reports that          */
    if ((os = kaws__disk_stat(fd, NULL, &its)) == 0)
        os = kaws__disk_stat(-1, other, &link);
    kaws__disk_close(fd);
    for (i = 0; i < 3 && os == 0; i++) {
        os = kaws__disk_stat(-1, names[i], &ours);
        if (os == 0 && ((ours.dev == its.dev && ours.ino == its.ino) ||
                        (ours.dev == link.dev && ours.ino == link.ino)))
            return kaws__err_set(err, KAWS_CONFIG, "%s and data_file name the "
                                 "same file, %s: give each a file of its own",
                                 setting, KAWS__SHOW(kaws__buf_of(names[i])));
        os = os == ENOENT ? 0 : os;
    }
    return kaws__file_result(f, os, "look at", "", err);
}


/* Locks slot 1 of one of the two files. Only this function waits for other
 * processes. It adds the time to *waited. */
static kaws_status
kaws__file_wait(const kaws__file *f, int fd, int *waited, kaws_error *err)
{
    const kaws__cancel cancel = KAWS__CANCEL_BY(f->hooks);
    int os, is_file = fd == f->fd;

    while ((os = kaws__disk_lock(fd, 1, !f->read_only)) == EAGAIN &&
           *waited < KAWS__FILE_WAIT_MS) {
        if (kaws__thread_pause(f->hooks, &cancel, 5))
            return kaws__err_cancelled(err, "another process");
        *waited += 5;
    }
    if (os == EAGAIN)
        return kaws__err_set(err, KAWS_LOCKED, "another process has been "
                             "changing the data file %s for more than %d "
                             "seconds; see who holds %s%s", f->shown,
                             KAWS__FILE_WAIT_MS / 1000, f->shown,
                             is_file ? "" : ".lock");
    return kaws__file_result(f, os, is_file ? "lock" : "lock the .lock of", "",
                             err);
}


static void
kaws__file_release(kaws__file *f)
{
    if (f->fd >= 0)
        (void)kaws__disk_unlock(f->fd, 1);
    if (f->lock_fd >= 0)
        (void)kaws__disk_unlock(f->lock_fd, 1);
}


/* Locks slot 1 of both files. `waited`: for how many ms the caller has waited
 * already. For a reader, the data file itself is locked when it is opened
 * (kaws__file_reach). */
static kaws_status
kaws__file_hold(kaws__file *f, int waited, kaws_error *err)
{
    kaws_status status = KAWS_OK;

    if (f->lock_fd >= 0)
        status = kaws__file_wait(f, f->lock_fd, &waited, err);
    if (status == KAWS_OK && f->fd >= 0 && !f->read_only)
        status = kaws__file_wait(f, f->fd, &waited, err);
    if (status != KAWS_OK)
        kaws__file_release(f);
    return status;
}


static const uint8_t *
kaws__file_id(const kaws__file *f)
{
    return f->file_id;
}


/* The digest of all bytes that count. */
static const uint8_t *
kaws__file_sum(const kaws__file *f)
{
    return f->sum;
}


/* ---- is it the file that we know? -------------------------------------- */

/* Closes the file if the system cannot replace an open file. */
static void
kaws__file_leave(kaws__file *f)
{
    if (KAWS__KEEPS_OPEN)
        return;
    kaws__disk_close(f->fd);
    f->fd = -1;
}


/* Whether `path` names the file that we have open; *differs says why not. */
static int
kaws__file_is_at(const kaws__file *f, const char *path, kaws__stat *st,
                 const char **differs)
{
    kaws__stat at;
    int os = kaws__disk_stat(f->fd, NULL, st);

    *differs = NULL;
    if (os == 0)
        os = kaws__disk_stat(-1, path, &at);
    if (os == 0 && (at.dev != st->dev || at.ino != st->ino))
        *differs = "another file has taken its place";
    else if (os == 0 && st->links == 0)
        *differs = "it was replaced under another name, and this one still "
                   "leads to the old file: mount it again";
    return os;
}


/* Whether the bytes that count still have the digest that we know. */
static int
kaws__file_adds_up(const kaws__file *f, const char **differs)
{
    uint8_t block[4096], digest[32];
    uint64_t at = 0, end = f->size - sizeof digest;
    kaws__sha256 hash;
    size_t got = 1;
    int os;

    kaws__crypto_init(&hash);
    for (; at < end && got > 0; at += got) {
        got = end - at < sizeof block ? (size_t)(end - at) : sizeof block;
        os = kaws__disk_read_at(f->fd, at, block, got, &got);
        if (os != 0)
            return os;
        if (at == 0)
            memset(block + KAWS__STORE_COMMITTED, 0, 16);
        kaws__crypto_update(&hash, block, got);
    }
    kaws__crypto_out(&hash, digest);
    if (!kaws__crypto_equal(digest, f->sum))
        *differs = "its bytes have changed";
    return 0;
}


/* Checks that `path` names the file that we have open, and that this file is as
 * we know it. If only its times have changed, as after a chmod, its digest
 * decides. `moved`: we have moved the file ourselves, so its times do not
 * count, and it must not have a second name. */
static kaws_status
kaws__file_compare(kaws__file *f, const char *path, int moved, kaws_error *err)
{
    uint8_t tail[32] = { 0 };
    const char *differs;
    kaws__stat st;
    size_t got;
    int os = kaws__file_is_at(f, path, &st, &differs);

    if (os == 0 && differs == NULL) {
        if (st.dev != f->stat.dev || st.ino != f->stat.ino)
            differs = "another file has taken its place";
        else if (st.links > 1 && moved)
            differs = "it was given another name, a hard link";
        else if (st.size != f->size + f->torn)
            differs = "its size has changed";
        else if ((os = kaws__disk_read_at(f->fd, st.size - sizeof tail, tail,
                                          sizeof tail, &got)) == 0 &&
                 !kaws__crypto_equal(tail, f->tail))
            differs = "its checksum has changed";
        else if (os == 0 && !moved && (st.mtime_ns != f->stat.mtime_ns ||
                                       st.ctime_ns != f->stat.ctime_ns))
            os = kaws__file_adds_up(f, &differs);
    }
    if (os != 0 || differs != NULL)
        return kaws__file_refuse(f, os, differs, "look at", err);
    if (!moved)
        f->stat = st;
    return KAWS_OK;
}


/* Begins a change: the path must name the file that we know. Opens the file if
 * it is not kept open. */
static kaws_status
kaws__file_change(kaws__file *f, kaws_error *err)
{
    int os = f->fd >= 0 ? 0
           : kaws__disk_open(f->path, f->read_only ? KAWS__READ : KAWS__WRITE,
                             &f->fd);
    kaws_status status = os == 0 ? kaws__file_compare(f, f->path, 0, err)
                       : kaws__file_refuse(f, os, NULL, "look at", err);

    if (status != KAWS_OK)
        kaws__file_leave(f);
    return status;
}


/* Ends a change: remembers the times that the change gave the file. If the
 * system does not tell them, the next change compares the digest. */
static void
kaws__file_changed(kaws__file *f)
{
    kaws__stat was = f->stat;

    if (kaws__disk_stat(f->fd, NULL, &f->stat) != 0) {
        f->stat = was;
        f->stat.mtime_ns = 0;
        f->stat.size = f->size;
    }
    kaws__file_leave(f);
}


/* Sets what the file holds from now on: `size` bytes that count, of which the
 * last 32 are `sum`, and `state` over all of them. No bytes follow them. */
static void
kaws__file_advance(kaws__file *f, uint64_t size, const uint8_t sum[32],
                   const kaws__sha256 *state)
{
    f->size = size;
    f->state = *state;
    f->torn = 0;
    memmove(f->sum, sum, sizeof f->sum);
    memcpy(f->tail, f->sum, sizeof f->tail);
}


/* ---- what others did to it --------------------------------------------- */

/* Whether the file has changed since `was`: the path names another file, or
 * none; or its size differs; or it was replaced under another name; or, with
 * `times`, its times differ. */
static int
kaws__file_differs(const kaws__file *f, const kaws__stat *was, int times)
{
    kaws__stat st;

    return kaws__disk_stat(-1, f->path, &st) != 0 || st.links == 0 ||
           st.dev != was->dev || st.ino != was->ino || st.size != was->size ||
           (times && (st.mtime_ns != was->mtime_ns ||
                      st.ctime_ns != was->ctime_ns));
}


/* Whether the file that the path names now may begin with our bytes, and go on
 * after them. */
static int
kaws__file_may_go_on(const kaws__file *f)
{
    kaws__stat st;

    return kaws__disk_stat(-1, f->path, &st) == 0 && st.regular && st.mine &&
           st.size >= f->size;
}


/* Prepares `again` for reading the file that the path names now, while `f`
 * still has what we know. `again` shares the .lock of `f`; the caller must
 * release the locks afterwards in any case. The lock on the data file itself is
 * released here, because the new one would have to wait for it. in_use is set,
 * so that no warning about ourselves is logged. */
static void
kaws__file_again(const kaws__file *f, kaws__file *again)
{
    if (f->fd >= 0)
        (void)kaws__disk_unlock(f->fd, 1);
    *again = *f;
    again->fd = -1;
    again->in_use = 1;
}


/* Takes over what was read: from now on, `f` knows that. `again` then holds the
 * old file, which is to be closed. */
static void
kaws__file_take(kaws__file *f, kaws__file *again)
{
    const size_t at = offsetof(kaws__file, fd);
    int fd = f->fd;

    memcpy((char *)f + at, (char *)again + at, sizeof *f - at);
    again->fd = fd;
}


/* ---- reading ----------------------------------------------------------- */

static kaws_status
kaws__file_looks_right(const kaws__file *f, const kaws__stat *st,
                       kaws_error *err)
{
    if (!st->regular)
        return kaws__file_error(f, KAWS_FILE, KAWS__FILE_NOT_PLAIN, err);
    if (!st->mine)
        return kaws__file_error(f, KAWS_FILE, "belongs to another user than "
                                "the one this process runs as; make this user "
                                "its owner, by chown or, if the file system "
                                "sets owners (uid=, root_squash), by its mount",
                                err);
    if (st->others_read > f->stat.others_read ||
        st->others_write > f->stat.others_write)      /* worse than it was    */
        kaws__err_others(f->hooks, "the data file", f->shown, st);
    return KAWS_OK;
}


/* Locks the file that was just opened, as file_hold does. After that, the path
 * must still name it. A reader goes on if the system has no locks, because the
 * digests prove what it reads. */
static kaws_status
kaws__file_reach(kaws__file *f, kaws_error *err)
{
    const char *differs;
    int waited = 0, os;
    kaws_status status = kaws__file_wait(f, f->fd, &waited, err);

    if (status == KAWS_OK)
        status = kaws__file_result(f, kaws__file_join(f, f->fd), "lock", "",
                                   err);
    if (status == KAWS_FILE && f->read_only) {
        if (!f->exists)
            kaws__err_log(f->hooks, KAWS__LOG_UNLOCKED, err->text);
        kaws__err_clear(err);
        status = KAWS_OK;
    }
    if (status != KAWS_OK)
        return status;
    os = kaws__file_is_at(f, f->path, &f->stat, &differs);
    if (os == ENOENT)
        differs = kaws__sys_error_text(os);
    if (differs != NULL)
        return kaws__err_set(err, KAWS_CHANGED, "the data file %s was replaced "
                             "while it was being opened: %s; try again",
                             f->shown, differs);
    return kaws__file_result(f, os, "look at", "", err);
}


/* Removes a name that a crash left: the new file was linked to the path, but
 * .tmp was not yet removed. */
static void
kaws__file_mend_links(kaws__file *f)
{
    kaws__stat tmp;

    if (f->stat.links > 1 && kaws__disk_stat(-1, f->tmp, &tmp) == 0 &&
        tmp.dev == f->stat.dev && tmp.ino == f->stat.ino &&
        kaws__disk_remove(f->tmp) == 0)
        kaws__file_changed(f);
}


/* Warns at open of what would make the first remove fail, months from now. */
static void
kaws__file_foresee(const kaws__file *f)
{
    static const char then[] = "no key can be removed and nothing re-wrapped";
    int os = kaws__disk_may_change(f->dir);

    if (f->stat.links > 1)
        kaws__err_log(f->hooks, KAWS__LOG_LINKS, f->shown,
                      KAWS__DECIMAL(f->stat.links), then);
    if (kaws__disk_is_mount(f->path))
        kaws__err_log(f->hooks, KAWS__LOG_MOUNT, f->shown, then);
    if (os != 0)
        kaws__err_log(f->hooks, KAWS__LOG_FOLDER, f->dir_shown, then,
                      kaws__sys_error_text(os));
}


/* A file's size proves nothing, because a file may have holes of any length. So
 * before we ask for much memory, the file must show a header, and records whose
 * lengths lead to its end, or to where a last one may have been cut off. A file
 * without holes has as many bytes as it says: it is read once only, unless it
 * is very large. */
static kaws_status
kaws__file_survey(const kaws__file *f, kaws_error *err)
{
    uint64_t size = f->stat.size, at = KAWS__STORE_HEADER, from = 0;
    uint8_t block[8192] = { 0 };
    kaws__found found;
    size_t got, len;
    int os = kaws__disk_read_at(f->fd, 0, block, sizeof block, &got);
    kaws_status status = kaws__file_result(f, os, "read", "", err);

    if (status == KAWS_OK)
        status = kaws__store_check_header(f->shown, block, size, &found, err);
    while (status == KAWS_OK && at + KAWS__STORE_APPEND_MAX < size) {
        if (at + 8 > from + got) {
            from = at;
            os = kaws__disk_read_at(f->fd, at, block, sizeof block, &got);
            if (os != 0 || got < 8)       /* it is shorter now: seen later    */
                return kaws__file_result(f, os, "read", "", err);
        }
        len = kaws__store_record_len(block + (at - from));
        if (len == 0)
            return kaws__store_damaged_end(f->shown, at, size,
                                           found.committed, err);
        at += len + KAWS__STORE_DIGEST;
    }
    return status;
}


/* Reads all bytes of the file that was opened, under its lock. */
static kaws_status
kaws__file_read_all(kaws__file *f, kaws__buf *out, kaws_error *err)
{
    kaws__stat st = { 0 };
    uint8_t *at;
    size_t got;
    int os = kaws__disk_stat(f->fd, NULL, &st);
    kaws_status status = kaws__file_result(f, os, "read", "", err);

    if (status != KAWS_OK ||
        (status = kaws__file_looks_right(f, &st, err)) != KAWS_OK ||
        (status = kaws__file_reach(f, err)) != KAWS_OK)
        return status;
    st = f->stat;                 /* of now: another process may have added to
                                   * it while we waited for its lock          */
    if (st.size > (st.stored < st.size ? KAWS__FILE_SMALL : KAWS__FILE_LARGE) &&
        (status = kaws__file_survey(f, err)) != KAWS_OK)
        return status;
    at = st.size <= SIZE_MAX / 2 ? kaws__buf_grow(out, (size_t)st.size) : NULL;
    if (at == NULL)
        return kaws__err_memory(err, "reading the data file");
    kaws__sys_advise_large(at, (size_t)st.size);
    os = kaws__disk_read_at(f->fd, 0, at, (size_t)st.size, &got);
    out->len = got;
    if (os == 0)
        os = kaws__disk_stat(f->fd, NULL, &f->stat);
    if (os != 0)
        return kaws__file_result(f, os, "read", "", err);
    if (f->stat.size != got || f->stat.mtime_ns != st.mtime_ns ||
        f->stat.ctime_ns != st.ctime_ns)
        return kaws__file_error(f, KAWS_CHANGED, "changed while it was being "
                                "read", err);
    if (!f->read_only)
        kaws__file_mend_links(f);
    if (!f->read_only && !f->exists)
        kaws__file_foresee(f);
    f->exists = 1;
    return KAWS_OK;
}


/* Reads the whole file. If there is none, that is no error: see f->exists. */
static kaws_status
kaws__file_read(kaws__file *f, kaws__buf *out, kaws_error *err)
{
    kaws_status status = KAWS_OK;
    int os;

    kaws__disk_close(f->fd);
    os = kaws__disk_open(f->path, f->read_only ? KAWS__READ : KAWS__WRITE,
                         &f->fd);
    if (os == 0)
        status = kaws__file_read_all(f, out, err);
    else if (os == EISDIR)
        status = kaws__file_error(f, KAWS_FILE, KAWS__FILE_NOT_PLAIN, err);
    else if (os == ENOENT)
        f->exists = 0;
    else
        status = kaws__file_result(f, os, "open", "", err);
    kaws__file_leave(f);
    return status;
}


/* ==========================================================================
 * ROOM  save     bytes to disk: durably, and whole
 * ==========================================================================
 * Uses: disk err text crypto store file
 * Gives: save_accept save_mend save_append save_begin save_put save_commit
 *        save_create save_finish
 *
 * Every change of the file is here. Each begins with kaws__file_change, and
 * ends with kaws__file_changed. kaws__file_advance records what the file then
 * holds.
 *
 * How a file is replaced, and what a crash after each step leaves:
 *
 *     1  remove a stale <path>.tmp      the old file
 *     2  create <path>.tmp, write it    the old file, and a stale .tmp
 *     3  sync it, lock it               the same
 *     4  exchange it with <path>        the old file or the new one, whole, and
 *                                       a stale .tmp
 *     5  remove .tmp, if it is ours     the same
 *     6  sync the folder                the new file
 *
 * The file that step 4 takes out must be the one that we know; otherwise it is
 * put back. If the system has no exchange, we check the path, and then rename:
 * a file that somebody moves there in between is lost. A new data file never
 * replaces another: step 4 is then a rename that fails if there is a file. If
 * the system has no such rename, step 4 is a hard link. A crash right after the
 * link leaves one file with two names, which opening mends.
 *
 * If the process is killed or a sync fails, but the system runs on, the next
 * process sees bytes that may not be durable. It must not build on them, so
 * opening the file first makes durable whatever it found.
 *
 * *landed always means that the file shows the change, for as long as the
 * system is up. KAWS_OK implies it, and every failure except KAWS_UNCERTAIN
 * excludes it.
 */

#define KAWS__SAVE_BLOCK      8192  /* bytes of a block of a replacement      */

typedef struct kaws__writer {     /* a replacement that is being written      */
    int      fd;                  /* of <path>.tmp                            */
    int      os;                  /* the first failure; the rest is skipped   */
    uint64_t size;                /* bytes written, before those in the block */
    size_t   used;
    uint8_t  sum[32];
    kaws__sha256 state;
    uint8_t  block[KAWS__SAVE_BLOCK];
} kaws__writer;


static kaws_status
kaws__save_uncertain(const kaws__file *f, int os, const char *what,
                     kaws_error *err)
{
    return kaws__err_os(err, KAWS_UNCERTAIN, os, "while the data file %s was "
                        "changed, %s; no more is changed until the keyring is "
                        "refreshed or reopened", f->shown, what);
}


/* ---- changing the file in place ---------------------------------------- */

/* Writes the committed length in place, without a sync of its own. A write that
 * failed in the middle is tried again, because half a length makes the file
 * unreadable. */
static kaws_status
kaws__save_write_length(kaws__file *f, kaws_error *err)
{
    uint8_t length[16];
    size_t done;
    int os = 0, tries = 0;

    kaws__store_committed(length, f->file_id, f->size);
    do {
        os = kaws__disk_write_at(f->fd, KAWS__STORE_COMMITTED, length,
                                 sizeof length, &done);
    } while (os != 0 && tries++ == 0 && done > 0);
    if (os != 0 && tries == 2)
        return kaws__save_uncertain(f, os, "a write failed in the middle, and "
                                    "again when it was repeated", err);
    return kaws__file_result(f, os, "write to", KAWS__FILE_UNCHANGED, err);
}


/* Sets the committed length to the file's length, durably. Call it within a
 * change. */
static kaws_status
kaws__save_commit_length(kaws__file *f, kaws_error *err)
{
    kaws_status status = kaws__save_write_length(f, err);

    if (status == KAWS_OK)
        status = kaws__file_result(f, kaws__disk_sync(f->fd), "sync", "", err);
    return status;
}


/* Appends an entry with one write and one sync. Before that, it sets the
 * committed length to what is already durable. If the write or the sync fails,
 * it cuts the entry off again. If that fails as well, nobody can say what the
 * disk holds. */
static kaws_status
kaws__save_append(kaws__file *f, kaws_bytes record, int *landed,
                  kaws_error *err)
{
    uint8_t bytes[KAWS__STORE_APPEND_MAX];
    uint8_t *digest = bytes + record.len;
    size_t len = record.len + KAWS__STORE_DIGEST, done;
    kaws__sha256 state = f->state;
    int os, failed;
    kaws_status status = kaws__file_change(f, err);

    *landed = 0;
    if (status != KAWS_OK)
        return status;
    memcpy(bytes, record.at, record.len);
    kaws__store_digest(&state, record, digest);
    if ((status = kaws__save_write_length(f, err)) == KAWS_OK) {
        os = kaws__disk_write_at(f->fd, f->size, bytes, len, &done);
        *landed = os == 0;
        if (os != 0 || (os = kaws__disk_sync(f->fd)) != 0) {
            failed = kaws__disk_truncate(f->fd, f->size);
            *landed = *landed && failed != 0;
            if (failed == 0)
                failed = kaws__disk_sync(f->fd);
            status = failed == 0
                   ? kaws__file_result(f, os, "add to", KAWS__FILE_UNCHANGED,
                                       err)
                   : kaws__save_uncertain(f, os, "an addition failed, and "
                                          "could not be taken back", err);
        }
    }
    if (*landed)
        kaws__file_advance(f, f->size + len, digest, &state);
    kaws__file_changed(f);
    return status;
}


/* Copies the torn end to a file of its own, durably. The file's name has the
 * time, and a number as well if there is already a file of that second. */
static int
kaws__save_copy_torn(kaws__file *f, kaws_bytes torn)
{
    size_t n = strlen(f->path), done;
    char date[17];
    int fd = -1, os = EEXIST;
    unsigned i;

    kaws__text_amz_date(date, f->hooks->now_ms(f->hooks->ctx) / 1000);
    for (i = 0; i < 99 && os == EEXIST; i++) {
        (void)snprintf(f->aside + n, sizeof KAWS__FILE_TORN,
                       i == 0 ? ".torn-%s" : ".torn-%s-%u", date, i % 100);
        os = kaws__disk_open(f->aside, KAWS__NEW, &fd);
    }
    if (os == 0 &&
        (os = kaws__disk_write_at(fd, 0, torn.at, torn.len, &done)) == 0 &&
        (os = kaws__disk_sync(fd)) == 0)
        os = kaws__file_sync_dir(f->dir);
    if (fd >= 0 && os != 0)
        (void)kaws__disk_remove(f->aside);
    kaws__disk_close(fd);
    return os;
}


/* Copies the torn end to a file of its own, and cuts it off. If that fails, it
 * may be tried again, because all that was acknowledged is still in the data
 * file. */
static kaws_status
kaws__save_set_aside(kaws__file *f, kaws_bytes all, kaws_error *err)
{
    kaws_bytes torn = { all.at + f->size, (size_t)f->torn };
    kaws_status status = kaws__file_change(f, err);
    int os;

    if (status != KAWS_OK)
        return status;
    os = f->copied ? 0 : kaws__save_copy_torn(f, torn);
    f->copied = os == 0;
    if (os == 0 && (os = kaws__disk_truncate(f->fd, f->size)) == 0) {
        kaws__file_advance(f, f->size, f->sum, &f->state);
        os = kaws__disk_sync(f->fd);
    }
    kaws__file_changed(f);
    if (f->torn == 0)
        kaws__err_log(f->hooks, KAWS__LOG_TORN, f->shown,
                      KAWS__COUNT(torn.len), f->shown,
                      f->aside + strlen(f->path));
    if (os == 0 && f->stat.size != f->size)
        return kaws__file_error(f, KAWS_CHANGED, "changed while its torn end "
                                "was cut off", err);
    return kaws__file_result(f, os, "set the torn end of", " aside; until that "
                             "succeeds, nothing is changed", err);
}


/* Makes durable what was read: the names in the folder, the bytes beyond the
 * committed length, and the file's length, because the file may have been cut
 * and not synced. The bytes are written again, because after a failed sync the
 * system may believe that it has written them. A full file system that copies
 * what is overwritten (btrfs, ZFS) may refuse to write them; f->synced says
 * that the rest was done. */
static kaws_status
kaws__save_settle(kaws__file *f, kaws_bytes all, kaws_error *err)
{
    size_t done;
    int os = kaws__file_sync_dir(f->dir), unwritten = 0;
    kaws_status status = kaws__file_result(f, os, "sync the folder of", "",
                                           err);

    if (status != KAWS_OK || (status = kaws__file_change(f, err)) != KAWS_OK)
        return status;
    if (f->committed < f->size)
        unwritten = kaws__disk_write_at(f->fd, f->committed,
                                        all.at + f->committed,
                                        (size_t)(f->size - f->committed),
                                        &done);
    os = kaws__disk_sync(f->fd);
    f->synced = os == 0;
    status = kaws__file_result(f, os != 0 ? os : unwritten, "make durable what "
                               "is in", "; until it is, nothing changes", err);
    if (status == KAWS_OK && f->committed != f->size)
        status = kaws__save_commit_length(f, err);
    kaws__file_changed(f);
    f->unsettled = status != KAWS_OK;
    return status;
}


/* Prepares the file for its first change: makes durable what was found, and
 * sets a torn end aside. If that fails, the next change tries it again. `all`
 * are the bytes that were read. */
static kaws_status
kaws__save_mend(kaws__file *f, kaws_bytes all, kaws_error *err)
{
    kaws_status status = f->unsettled ? kaws__save_settle(f, all, err)
                                      : KAWS_OK;

    return status == KAWS_OK && f->torn > 0 ? kaws__save_set_aside(f, all, err)
                                            : status;
}


/* Takes over what was read, after it was checked. */
static kaws_status
kaws__save_accept(kaws__file *f, kaws_bytes all, const kaws__found *found,
                  kaws_error *err)
{
    kaws_status status;

    memcpy(f->file_id, found->file_id, sizeof f->file_id);
    f->epoch = found->epoch;
    f->committed = found->committed;
    f->copied = f->synced = 0;
    kaws__file_advance(f, found->good, all.at + found->good - sizeof f->sum,
                       &found->state);
    f->torn = all.len - found->good;
    memcpy(f->tail, all.at + all.len - sizeof f->tail, sizeof f->tail);
    if (f->torn > 0 && f->read_only)
        kaws__err_log(f->hooks, KAWS__LOG_TORN_LEFT, f->shown,
                      KAWS__COUNT(f->torn));
    if (f->read_only)
        return KAWS_OK;
    f->unsettled = 1;
    status = kaws__save_mend(f, all, err);
    if (status == KAWS_FILE && f->synced) {       /* no entry is missing      */
        kaws__err_log(f->hooks, KAWS__LOG_UNSETTLED, err->text);
        kaws__err_clear(err);
        status = KAWS_OK;
    }
    return status;
}


/* ---- replacing it ------------------------------------------------------ */

static void
kaws__save_flush(kaws__writer *w)
{
    size_t done;

    if (w->os == 0)
        w->os = kaws__disk_write_at(w->fd, w->size, w->block, w->used, &done);
    w->size += w->used;
    w->used = 0;
}


/* Begins a replacement with its header. If this succeeds, kaws__save_commit
 * must follow. The new file must be one that file_looks_right accepts, because
 * the file system may have set its owner. */
static kaws_status
kaws__save_begin(kaws__file *f, kaws__writer *w, kaws_error *err)
{
    kaws__stat st;
    kaws_status status = KAWS_OK;
    int os;

    memset(w, 0, offsetof(kaws__writer, block));
    if (f->exists && (status = kaws__file_change(f, err)) == KAWS_OK)
        kaws__file_mend_links(f);
    kaws__file_leave(f);
    if (status == KAWS_OK && f->stat.links > 1)
        status = kaws__err_set(err, KAWS_FILE, "the data file %s has %s names "
                               "(hard links), and replacing it would leave "
                               "an older keyring under the others; nothing was "
                               "changed; remove the other names", f->shown,
                               KAWS__DECIMAL(f->stat.links));
    if (status != KAWS_OK)
        return status;
    w->fd = -1;
    if ((os = kaws__disk_remove(f->tmp)) == 0 &&
        (os = kaws__disk_open(f->tmp, KAWS__NEW, &w->fd)) == 0)
        os = kaws__disk_stat(w->fd, NULL, &st);
    status = os == 0 ? kaws__file_looks_right(f, &st, err)
           : kaws__file_result(f, os, "create the .tmp of", "", err);
    if (status != KAWS_OK && w->fd >= 0) {
        kaws__disk_close(w->fd);
        (void)kaws__disk_remove(f->tmp);
    }
    kaws__store_header(w->block, &w->state, f->file_id, f->epoch, 0);
    memcpy(w->sum, w->block + KAWS__STORE_DIGESTED, sizeof w->sum);
    w->used = KAWS__STORE_HEADER;
    return status;
}


/* Adds an entry to a replacement. */
static void
kaws__save_put(kaws__writer *w, kaws_bytes record)
{
    if (record.len + sizeof w->sum > sizeof w->block - w->used)
        kaws__save_flush(w);
    kaws__store_digest(&w->state, record, w->sum);
    memcpy(w->block + w->used, record.at, record.len);
    memcpy(w->block + w->used + record.len, w->sum, sizeof w->sum);
    w->used += record.len + sizeof w->sum;
}


/* Writes the rest of a replacement, and its committed length; syncs it; and
 * locks it as the file that it replaces is locked. */
static int
kaws__save_complete(kaws__file *f, kaws__writer *w, kaws__stat *st)
{
    uint8_t length[16];
    size_t done;
    int os;

    kaws__save_flush(w);
    kaws__store_committed(length, f->file_id, w->size);
    if ((os = w->os) == 0 &&
        (os = kaws__disk_write_at(w->fd, KAWS__STORE_COMMITTED, length,
                                  sizeof length, &done)) == 0 &&
        (os = kaws__disk_sync(w->fd)) == 0 &&
        (os = kaws__disk_lock(w->fd, 0, 0)) == 0 &&
        (os = kaws__disk_lock(w->fd, 1, 1)) == 0)
        os = kaws__disk_stat(w->fd, NULL, st);
    return os;
}


/* The exchange took out a file that is not ours, or that could not be checked,
 * as `status` says. That file is put back, durably, because a power cut could
 * otherwise undo that. */
static kaws_status
kaws__save_put_back(kaws__file *f, int dir, kaws_status status, int *landed,
                    kaws_error *err)
{
    int os = kaws__disk_rename(f->tmp, f->path, KAWS__EXCHANGE);

    *landed = os != 0;
    if (os == 0 && (os = kaws__disk_sync_dir(dir)) == 0)
        return status;
    return kaws__save_uncertain(f, os, *landed
                                ? "another file took its place, and could not "
                                  "be put back: it is .tmp now, save it"
                                : "another file took its place, and was put "
                                  "back, but not durably", err);
}


/* Gives the replacement the file's name. If the system has neither exchange nor
 * link for that, checks the path, and then renames. */
static kaws_status
kaws__save_rename(kaws__file *f, int dir, int *landed, kaws_error *err)
{
    kaws__stat st;
    int os = kaws__disk_rename(f->tmp, f->path, f->exists ? KAWS__EXCHANGE
                                                          : KAWS__RENAME_NEW);
    int exchanged = os == 0 && f->exists;
    kaws_status status = KAWS_OK;

    if (exchanged) {
        status = kaws__file_compare(f, f->tmp, 1, err);
    } else if (os == ENOSYS) {
        os = !f->exists && kaws__disk_stat(-1, f->path, &st) == 0 ? EEXIST : 0;
        if (f->exists)
            status = kaws__file_change(f, err);
        kaws__file_leave(f);
        if (os == 0 && status == KAWS_OK)
            os = kaws__disk_rename(f->tmp, f->path, KAWS__REPLACE);
    }
    if (os != 0)
        status = kaws__file_refuse(f, os, NULL, "replace", err);
    *landed = status == KAWS_OK;
    return exchanged && !*landed
         ? kaws__save_put_back(f, dir, status, landed, err) : status;
}


/* Puts the replacement in place. The old file stays locked until its name is
 * gone, because a process that has it by another name would use it as the
 * keyring. */
static kaws_status
kaws__save_commit(kaws__file *f, kaws__writer *w, int *landed, kaws_error *err)
{
    kaws__stat st;
    kaws_status status;
    int dir = -1, os = kaws__save_complete(f, w, &st);

    *landed = 0;
    if (os == 0)
        os = kaws__disk_open(f->dir, KAWS__FOLDER, &dir);
    status = os == 0 ? kaws__save_rename(f, dir, landed, err)
           : kaws__file_result(f, os, "replace", KAWS__FILE_UNCHANGED, err);
    if (status == KAWS_OK || !*landed)
        (void)kaws__disk_remove(f->tmp);
    kaws__disk_close(*landed ? f->fd : w->fd);
    if (*landed) {
        f->fd = w->fd;
        f->stat = st;
        f->exists = 1;
        kaws__file_advance(f, w->size, w->sum, &w->state);
        kaws__file_changed(f);
    }
    if (status == KAWS_OK && (os = kaws__disk_sync_dir(dir)) != 0)
        status = kaws__save_uncertain(f, os, "it was replaced, but its folder "
                                      "could not be synced", err);
    kaws__disk_close(dir);
    return status;
}


/* Makes a new, empty file. First syncs the folder above our folder, because
 * that holds our folder's name. It does so even if our folder was there before:
 * its creator may have crashed before syncing. If we did not make our folder
 * and may not open the folder above, that is no failure. */
static kaws_status
kaws__save_create(kaws__file *f, kaws_error *err)
{
    kaws__writer w;
    kaws_status status;
    int landed, os;

    if (f->read_only || f->must_exist)
        return kaws__file_missing(f, err);
    if (f->hooks->random(f->hooks->ctx, f->file_id, sizeof f->file_id) != 0)
        return kaws__err_set(err, KAWS_RANDOM, "the system gave no random "
                             "bytes for the data file's id");
    os = kaws__file_sync_dir(f->above);
    if (os != 0 && (os != EACCES || f->made_dir))
        return kaws__file_result(f, os, "sync the folder above that of", "",
                                 err);
    if ((status = kaws__save_begin(f, &w, err)) == KAWS_OK &&
        (status = kaws__save_commit(f, &w, &landed, err)) == KAWS_OK)
        kaws__err_log(f->hooks, KAWS__LOG_NEW_FILE, f->shown);
    return status;
}


/* At a clean close: sets the committed length, so that the file itself says how
 * long it has to be. This is a help, not a duty: a file that others have
 * changed is left alone. */
static void
kaws__save_finish(kaws__file *f)
{
    kaws_error err = { 0 };
    kaws_status status;

    if (f->read_only || f->unsettled ||
        kaws__file_hold(f, 0, &err) != KAWS_OK)
        return;
    if ((status = kaws__file_change(f, &err)) == KAWS_OK) {
        status = kaws__save_commit_length(f, &err);
        kaws__file_changed(f);
    }
    if (status != KAWS_OK)
        kaws__err_log(f->hooks, KAWS__LOG_CLOSING, err.text);
    kaws__file_release(f);
}


/* ==========================================================================
 * ROOM  table    sealed entries by name, in the order they came
 * ==========================================================================
 * Uses: mem buf store
 * Gives: table_open table_close table_record table_hash table_find table_new
 *        table_discard table_adopt table_reserve table_add table_remove
 *        table_swap table_from table_exchange
 *
 * An entry is its record, byte for byte as in the file. An entry that was there
 * at the opening stays inside the bytes of the file that were read then (the
 * image). Every other entry has memory of its own. So opening copies nothing,
 * and to write the file is to copy the entries. The rows are an array, oldest
 * first. A hash table with open addressing points at the same entries. Only
 * reserve and new can fail. They are called before the disk is touched, so
 * nothing can fail after that.
 */

typedef struct kaws__entry kaws__entry;     /* never defined: a record        */

typedef struct kaws__row {
    uint64_t     serial;          /* grows with every entry, never reused     */
    kaws__entry *entry;
} kaws__row;

typedef struct kaws__slot {
    uint32_t     hash;
    kaws__entry *entry;           /* NULL: free                               */
} kaws__slot;

enum { KAWS__TABLE_PLACE = sizeof(kaws__slot) + sizeof(kaws__row) };

typedef struct kaws__table {
    const kaws_hooks *hooks;
    uint64_t     seed[2];         /* so that nobody can choose names to clash */
    uint64_t     since;           /* serials below it: an earlier table's     */
    uint64_t     next_serial;
    kaws__row   *rows;            /* behind the slots, in the same block      */
    size_t       count;
    kaws__slot  *slots;
    size_t       slot_count;      /* a power of two, or 0                     */
    kaws__buf    image;
    size_t       image_entries;   /* how many rows' entries are in it         */
} kaws__table;


static void
kaws__table_open(kaws__table *t, const kaws_hooks *hooks,
                 const uint64_t seed[2])
{
    *t = (kaws__table){ .hooks = hooks, .seed = { seed[0], seed[1] },
                        .next_serial = 1 };
}


/* ---- entries ----------------------------------------------------------- */

static kaws_bytes
kaws__table_record(const kaws__entry *e)
{
    kaws_bytes record = { (const uint8_t *)e, 0 };

    record.len = kaws__store_record_len(record.at);
    return record;
}


/* Makes an entry of a record, with memory of its own. It is in no table until
 * it is added. */
static kaws__entry *
kaws__table_new(const kaws_hooks *hooks, kaws_bytes record)
{
    kaws__entry *e = kaws__mem_new(hooks, record.len);

    if (e != NULL)
        memcpy(e, record.at, record.len);
    return e;
}


/* Frees an entry that kaws__table_new made and that is in no table. `e` may be
 * NULL. */
static void
kaws__table_discard(const kaws_hooks *hooks, kaws__entry *e)
{
    if (e != NULL)
        kaws__mem_free(hooks, e, kaws__table_record(e).len);
}


static int
kaws__table_in_image(const kaws__table *t, const kaws__entry *e)
{
    return t->image.at != NULL &&
           (uintptr_t)e - (uintptr_t)t->image.at < t->image.len;
}


/* Releases the entry of a row. The image is freed with the last one in it. */
static void
kaws__table_drop(kaws__table *t, kaws__entry *e)
{
    if (!kaws__table_in_image(t, e)) {
        kaws__table_discard(t->hooks, e);
        return;
    }
    kaws_wipe(e, kaws__table_record(e).len);
    if (--t->image_entries == 0)
        kaws__buf_free(&t->image);
}


static void
kaws__table_close(kaws__table *t)
{
    while (t->count > 0)
        kaws__table_drop(t, t->rows[--t->count].entry);
    kaws__buf_free(&t->image);
    kaws__mem_free(t->hooks, t->slots, t->slot_count * KAWS__TABLE_PLACE);
    memset(t, 0, sizeof *t);
}


/* Takes over the bytes of the whole file, for entries to stand in. */
static kaws_bytes
kaws__table_adopt(kaws__table *t, kaws__buf *image)
{
    t->image = *image;
    kaws__buf_init(image, t->hooks);
    return kaws__buf_view(&t->image);
}


/* ---- names ------------------------------------------------------------- */

#define KAWS__TABLE_ROTATE(word, bits) \
    ((word) << (bits) | (word) >> (64 - (bits)))


/* SipHash-1-3 (Aumasson and Bernstein): without the seed, nobody can choose
 * names that share a slot. The lengths of both texts, 255 at most, go in first,
 * so that key id and user id cannot trade bytes. */
static uint64_t
kaws__table_hash(const kaws__table *t, kaws_bytes key_id, kaws_bytes user_id)
{
    uint64_t a = t->seed[0] ^ 0x736f6d6570736575u;
    uint64_t b = t->seed[1] ^ 0x646f72616e646f6du;
    uint64_t c = t->seed[0] ^ 0x6c7967656e657261u;
    uint64_t d = t->seed[1] ^ 0x7465646279746573u;
    uint64_t words[1 + 2 * 256 / 8], word;
    size_t last = (key_id.len + user_id.len + 7) / 8, i;
    uint8_t *texts = (uint8_t *)(words + 1);

    words[last] = 0;                      /* its end is not written below     */
    words[0] = key_id.len << 16 | user_id.len;
    memcpy(texts, key_id.at, key_id.len);
    memcpy(texts + key_id.len, user_id.at, user_id.len);
    for (i = 0; i <= last + 3; i++) {
        word = i <= last ? words[i] : 0;
        c ^= i == last + 1 ? 0xff : 0;
        d ^= word;
        a += b;
        c += d;
        b = KAWS__TABLE_ROTATE(b, 13) ^ a;
        d = KAWS__TABLE_ROTATE(d, 16) ^ c;
        a = KAWS__TABLE_ROTATE(a, 32) + d;
        c += b;
        d = KAWS__TABLE_ROTATE(d, 21) ^ a;
        b = KAWS__TABLE_ROTATE(b, 17) ^ c;
        c = KAWS__TABLE_ROTATE(c, 32);
        a ^= word;
    }
    return a ^ b ^ c ^ d;
}


/* The slot of that name, or the free one where it would be. The slots are never
 * all taken, so the search ends. */
static kaws__slot *
kaws__table_slot(const kaws__table *t, kaws_bytes key_id, kaws_bytes user_id,
                 uint64_t *hash)
{
    size_t mask = t->slot_count - 1, i;
    const kaws__slot *slots = t->slots;

    *hash = kaws__table_hash(t, key_id, user_id);
    for (i = (size_t)*hash & mask; slots[i].entry != NULL; i = (i + 1) & mask)
        if (slots[i].hash == (uint32_t)*hash &&
            kaws__store_is_named((const uint8_t *)slots[i].entry, key_id,
                                 user_id))
            break;
    return &t->slots[i];
}


/* The slot of an entry's name. */
static kaws__slot *
kaws__table_slot_of(const kaws__table *t, const kaws__entry *e, uint64_t *hash)
{
    kaws__record r;

    (void)kaws__store_split(kaws__table_record(e), &r);
    return kaws__table_slot(t, r.key_id, r.user_id, hash);
}


/* NULL if there is none of that name; otherwise *hash is the name's. */
static kaws__entry *
kaws__table_find(const kaws__table *t, kaws_bytes key_id, kaws_bytes user_id,
                 uint64_t *hash)
{
    return t->slot_count == 0
         ? NULL : kaws__table_slot(t, key_id, user_id, hash)->entry;
}


/* ---- changes ----------------------------------------------------------- */

/* Makes sure that so many more entries can be added without asking for memory.
 * At most three quarters of the slots are taken. */
static int
kaws__table_reserve(kaws__table *t, size_t more)
{
    size_t slot_count = t->slot_count < 32 ? 32 : t->slot_count, mask, i, at;
    kaws__slot *slots;
    kaws__row *rows;

    if (more > SIZE_MAX / KAWS__TABLE_PLACE / 4 - t->count)
        return 0;
    while (t->count + more > slot_count / 4 * 3)
        slot_count *= 2;
    if (slot_count == t->slot_count)
        return 1;
    slots = kaws__mem_new(t->hooks, slot_count * KAWS__TABLE_PLACE);
    if (slots == NULL)
        return 0;
    mask = slot_count - 1;
    for (i = 0; i < t->slot_count; i++) {
        if (t->slots[i].entry == NULL)
            continue;
        for (at = t->slots[i].hash & mask; slots[at].entry != NULL;)
            at = (at + 1) & mask;
        slots[at] = t->slots[i];
    }
    rows = (void *)(slots + slot_count);
    for (i = 0; i < t->count; i++)
        rows[i] = t->rows[i];
    kaws__mem_free(t->hooks, t->slots, t->slot_count * KAWS__TABLE_PLACE);
    t->slots = slots;
    t->slot_count = slot_count;
    t->rows = rows;
    return 1;
}


/* Adds the entry behind all others, and owns it from then on. Returns 0 if its
 * name is there already. Room must have been reserved. */
static int
kaws__table_add(kaws__table *t, kaws__entry *e)
{
    uint64_t hash;
    kaws__slot *slot = kaws__table_slot_of(t, e, &hash);

    if (slot->entry != NULL)
        return 0;
    *slot = (kaws__slot){ (uint32_t)hash, e };
    t->rows[t->count++] = (kaws__row){ t->next_serial++, e };
    t->image_entries += (size_t)kaws__table_in_image(t, e);
    return 1;
}


/* The index of the first row whose serial is `serial` or greater. */
static size_t
kaws__table_from(const kaws__table *t, uint64_t serial)
{
    size_t low = 0, high = t->count, middle;

    while (low < high) {
        middle = low + (high - low) / 2;
        if (t->rows[middle].serial < serial)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}


/* Takes an entry out and releases it. Entries that it pushed along in the hash
 * table move back, so that no search stops at its slot too early. */
static void
kaws__table_remove(kaws__table *t, kaws__entry *e)
{
    uint64_t hash;
    size_t mask = t->slot_count - 1, row = 0, i;
    size_t hole = (size_t)(kaws__table_slot_of(t, e, &hash) - t->slots);

    for (i = (hole + 1) & mask; t->slots[i].entry != NULL; i = (i + 1) & mask)
        if (((i - t->slots[i].hash) & mask) >= ((i - hole) & mask)) {
            t->slots[hole] = t->slots[i];
            hole = i;
        }
    t->slots[hole].entry = NULL;
    while (t->rows[row].entry != e)
        row++;
    t->count--;
    memmove(t->rows + row, t->rows + row + 1,
            (t->count - row) * sizeof *t->rows);
    kaws__table_drop(t, e);
}


/* Puts `fresh`, the same name sealed again, in the place of that row's entry,
 * which is released. */
static void
kaws__table_swap(kaws__table *t, size_t row, kaws__entry *fresh)
{
    kaws__entry *old = t->rows[row].entry;
    uint64_t hash;

    kaws__table_slot_of(t, old, &hash)->entry = fresh;
    t->rows[row].entry = fresh;
    kaws__table_drop(t, old);
}


/* Exchanges the table with `fresh`, which was read later. `more`: `fresh`
 * begins with all entries of the table, and they keep their serials. Otherwise
 * the two have no serial in common. */
static void
kaws__table_exchange(kaws__table *t, kaws__table *fresh, int more)
{
    const kaws__table old = *t;
    uint64_t serial = old.next_serial;
    size_t i;

    fresh->since = more ? old.since : ++serial;
    for (i = 0; i < fresh->count; i++)
        fresh->rows[i].serial = more && i < old.count ? old.rows[i].serial
                                                      : serial++;
    fresh->next_serial = serial;
    *t = *fresh;
    *fresh = old;
}


/* ==========================================================================
 * ROOM  bind     what a blob is tied to: the encryption context of its key
 * ==========================================================================
 * Uses: err buf text store
 * Gives: bind_name bind_key bind_context_ok
 *
 * The manual, section 8, says what the context of a key holds. A kaws__record
 * (room store) carries a name, or all that is known of a key, as views.
 */

typedef struct kaws__bound {
    char       key_id[3 * KAWS_NAME_MAX + 1];
    char       user_id[3 * KAWS_NAME_MAX + 1];
    char       type[16];
    kaws_pair  pairs[5];
    kaws_context context;         /* points at them: do not copy it           */
} kaws__bound;

/* Begins a record with the name. NULL and "" are the same owner: nobody. */
static kaws_status
kaws__bind_name(kaws_name name, kaws__record *r, kaws_error *err)
{
    memset(r, 0, sizeof *r);
    r->key_id = kaws__buf_of(name.key_id != NULL ? name.key_id : "");
    r->user_id = kaws__buf_of(name.user_id != NULL ? name.user_id : "");
    if (r->key_id.len == 0)
        return kaws__err_argument(err, "the key id is empty");
    if (r->key_id.len > KAWS_NAME_MAX)
        return kaws__err_argument(err, "the key id is longer than 255 bytes");
    if (r->user_id.len > KAWS_NAME_MAX)
        return kaws__err_argument(err, "the user id is longer than 255 bytes");
    return KAWS_OK;
}


static int
kaws__bind_printable(int c)
{
    return c >= 0x20 && c <= 0x7e && c != '%';
}


/* The context of the key that the record names, in the file of that id. Key id
 * and user id are percent-encoded, so any bytes make valid JSON, and no two
 * names have the same context. KMS refuses an empty value, so a key without an
 * owner has no user_id. */
static void
kaws__bind_key(const char *file_hex, const kaws__record *r, kaws__bound *b)
{
    const kaws_pair pairs[5] = {
        { "app", "keyring_aws" }, { "file", file_hex }, { "key_id", b->key_id },
        { "key_type", b->type }, { "user_id", b->user_id }
    };
    kaws__buf key_id = kaws__buf_fixed(b->key_id, sizeof b->key_id - 1);
    kaws__buf user_id = kaws__buf_fixed(b->user_id, sizeof b->user_id - 1);

    memset(b, 0, sizeof *b);
    kaws__text_percent(&key_id, r->key_id, kaws__bind_printable);
    kaws__text_percent(&user_id, r->user_id, kaws__bind_printable);
    (void)kaws__buf_copy_text(b->type, sizeof b->type, r->type);
    memcpy(b->pairs, pairs, sizeof pairs);
    b->context.pairs = b->pairs;
    b->context.count = r->user_id.len > 0 ? 5 : 4;
}


static int
kaws__bind_text_ok(const char *text)
{
    return text != NULL && *text != '\0' &&
           kaws__text_is_utf8(kaws__buf_of(text));
}


/* Whether KMS accepts a caller's context: its names and values are UTF-8 text,
 * none is empty, and no name is there twice, because KMS would use only one of
 * the two. */
static kaws_status
kaws__bind_context_ok(const kaws_context *ctx, kaws_error *err)
{
    const kaws_pair *pair = ctx != NULL ? ctx->pairs : NULL;
    size_t i, k, count = ctx != NULL ? ctx->count : 0;

    for (i = 0; i < count; i++) {
        if (pair == NULL || !kaws__bind_text_ok(pair[i].name) ||
            !kaws__bind_text_ok(pair[i].value))
            return kaws__err_argument(err, "a name or value in the encryption "
                                      "context is NULL, empty or not UTF-8");
        for (k = 0; k < i; k++)
            if (strcmp(pair[k].name, pair[i].name) == 0)
                return kaws__err_set(err, KAWS_ARGUMENT, "bad argument: the "
                                     "name '%s' is in the encryption context "
                                     "twice",
                                     KAWS__SHOW(kaws__buf_of(pair[k].name)));
    }
    return KAWS_OK;
}


/* ==========================================================================
 * ROOM  vault    the data file and the table, which change together
 * ==========================================================================
 * Uses: thread disk err buf text trust shield store file save table bind
 * Gives: vault_open vault_abandon vault_close vault_look vault_state
 *        vault_entry vault_add vault_replace vault_claim vault_extent
 *        vault_list vault_stats vault_refresh
 *
 * One lock guards the table, the file and the file's digest. No thread that
 * holds it waits for anything. A change waits first: for its turn among the
 * ring's threads, then for the file's locks, which other processes may hold.
 * Then it takes the lock, reserves memory, changes the disk, and last, when
 * nothing can fail any more, the table. This room does not know KMS.
 *
 * If other processes changed the file, it is read as at the opening, into a new
 * file and a new table. These replace the old ones when all is checked and
 * durable. If the new bytes begin with the old ones, nothing that the ring
 * knows has changed, so the ring may do this whenever it needs to know more.
 * Every other case is for the ring's owner to decide.
 */

#define KAWS__VAULT_TURN_MS   10000  /* for other threads, if none progresses */

typedef struct kaws__vault {
    const kaws_hooks *hooks;
    kaws__trust *trust;           /* learns whose KMS keys the entries name   */
    int          has_file, read_only;
    char         file_hex[33];    /* the file id, as the context has it       */
    kaws__turn   turn;            /* a thread that changes the file has it    */
    kaws__stat   refused;         /* guarded by the turn: a file we refused   */
    kaws__lock   lock;            /* guards all below                         */
    int          uncertain;       /* no more changes until it is read again   */
    kaws__file   file;
    kaws__table  table;
    kaws__shield shield;          /* has a lock of its own                    */
} kaws__vault;

typedef struct kaws__copy {       /* a key, to be used without the lock       */
    kaws__record record;          /* views into `bytes`, by vault_unpack      */
    kaws_sealed  sealed;
    kaws__bound  bound;           /* what the blob is tied to                 */
    uint64_t     id;              /* hash of its name; 0: the shield is off   */
    uint64_t     generation;      /* of the file; must stand before `bytes`   */
    uint8_t      bytes[KAWS__STORE_RECORD_MAX];
} kaws__copy;

typedef enum kaws__intent {
    KAWS__TO_REFRESH, KAWS__TO_FETCH, KAWS__TO_REMOVE, KAWS__TO_ADD
} kaws__intent;


/* With the lock held: whether there is a file, and whether the intent is
 * allowed. After a disk failure in the middle of a change nobody knows what the
 * file holds, so nobody may add to it. A removal is allowed here, and refused
 * when the change begins, because there may be no such key. */
static kaws_status
kaws__vault_allows(const kaws__vault *v, kaws__intent intent, kaws_error *err)
{
    if (!v->has_file)
        return kaws__err_set(err, KAWS_CONFIG, "the ring has no data file: "
                             "data_file has to be set");
    if (intent > KAWS__TO_FETCH && v->read_only)
        return kaws__err_set(err, KAWS_CONFIG, "the keyring is read only");
    if (intent == KAWS__TO_ADD && v->uncertain)
        return kaws__err_set(err, KAWS_UNCERTAIN, "the disk failed in the "
                             "middle of an earlier change to %s: refresh or "
                             "reopen the keyring before changing more",
                             v->file.shown);
    return KAWS_OK;
}


/* ---- what the file has now --------------------------------------------- */

/* With the lock held: what tells this state of the file from any other. */
static const char *
kaws__vault_state(const kaws__vault *v, char out[80])
{
    char sum[9];

    kaws__text_hex(sum, kaws__file_sum(&v->file), 4);
    (void)snprintf(out, 80, "%s key%s, checksum begins with %s",
                   KAWS__COUNT(v->table.count), sum);
    return out;
}


/* Waits until the file is ours; vault_release ends that. Waits for our turn
 * first, because the file's locks do not exclude threads of one process. Then
 * waits for the file's locks. Their time limit includes the wait for our turn,
 * from the last progress of another thread on. A caller that wants the vault's
 * own lock takes it last. */
static kaws_status
kaws__vault_hold(kaws__vault *v, kaws_error *err)
{
    int waited = kaws__thread_turn_wait(&v->turn, KAWS__VAULT_TURN_MS,
                                        v->hooks);
    kaws_status status;

    if (waited == KAWS__GIVEN_UP)
        return kaws__err_cancelled(err, "another thread");
    if (waited == KAWS__TOO_LONG)
        return kaws__err_set(err, KAWS_LOCKED, "another thread has been "
                             "changing the data file %s for more than %d "
                             "seconds; does its disk answer?", v->file.shown,
                             KAWS__VAULT_TURN_MS / 1000);
    status = kaws__file_hold(&v->file, waited, err);
    if (status != KAWS_OK)
        kaws__thread_turn_end(&v->turn, 0);
    return status;
}


static kaws_status
kaws__vault_release(kaws__vault *v, kaws_status status)
{
    kaws__file_release(&v->file);
    kaws__thread_turn_end(&v->turn, 1);
    return status;
}


/* Puts the records of a file whose digest is right into a table; their bytes
 * stay in its image. `accounts`: see trust_entry. */
static kaws_status
kaws__vault_load(const char *name, kaws__table *t, uint64_t good,
                 char *accounts, kaws_error *err)
{
    kaws_bytes all = kaws__buf_view(&t->image);
    size_t at = KAWS__STORE_HEADER;
    kaws_bytes record;
    kaws_bytes last = { NULL, 0 };        /* the last record's owner          */
    const char *wrong;
    kaws__record r;

    all.len = (size_t)good;
    for (; at < good; at += record.len + KAWS__STORE_DIGEST) {
        record = kaws__store_next(all, at);
        if (!kaws__table_reserve(t, 1))
            return kaws__err_memory(err, "reading the data file");
        wrong = kaws__store_parse(record, &r);
        if (wrong == NULL &&
            !kaws__table_add(t, (kaws__entry *)(t->image.at + at)))
            wrong = "the entry there has the name of an earlier one";
        if (wrong != NULL)
            return kaws__store_damaged(name, at, wrong, err);
        if (!kaws__buf_same(r.owner, last))
            kaws__trust_entry(accounts, r.arn);
        last = r.owner;
    }
    return KAWS_OK;
}


/* Reads and checks a file, and puts its bytes and keys into a table. The file's
 * locks must be held, so that no other process changes it meanwhile. */
static kaws_status
kaws__vault_read(kaws__file *f, kaws__table *t, kaws__found *found,
                 char *accounts, kaws_error *err)
{
    kaws__buf bytes;
    kaws_bytes all;
    kaws_status status;

    kaws__buf_init(&bytes, f->hooks);
    status = kaws__file_read(f, &bytes, err);
    all = kaws__table_adopt(t, &bytes);
    if (status == KAWS_OK && f->exists &&
        (status = kaws__store_check(f->shown, all, found, err)) == KAWS_OK)
        status = kaws__vault_load(f->shown, t, found->good, accounts, err);
    return status;
}


/* Takes over what was read. `fresh` is NULL if the keys are the same.
 * Afterwards *again and *fresh have the old file and table, which are to be
 * closed. */
static void
kaws__vault_take(kaws__vault *v, kaws__file *again, kaws__table *fresh,
                 int more)
{
    int added = again->size - v->file.size != 0, settled = v->uncertain;
    char before[80], now[80];

    kaws__thread_lock(&v->lock);
    kaws__vault_state(v, before);
    kaws__file_take(&v->file, again);
    if (fresh != NULL) {
        kaws__table_exchange(&v->table, fresh, more);
        v->uncertain = 0;
        if (!more)
            kaws__shield_empty(&v->shield, 1);
    }
    kaws__vault_state(v, now);
    kaws__thread_unlock(&v->lock);
    if (!more || settled)
        kaws__err_log(v->hooks, KAWS__LOG_REFRESHED, v->file.shown, now,
                      before);
    else if (added)
        kaws__err_log(v->hooks, KAWS__LOG_ADDED, v->file.shown, now, before);
}


/* Reads the file that the path names now, and takes it over: with `any`,
 * whatever keys it has; otherwise only if it has all that the ring knows, and
 * maybe more. On failure all is as before, but the caller must still release
 * the file. */
static kaws_status
kaws__vault_reread(kaws__vault *v, int any, kaws_error *err)
{
    const kaws__file *f = &v->file;
    char accounts[KAWS__TRUST_LIST] = "";
    kaws__file again;
    kaws__table fresh;
    kaws__found found;
    kaws_bytes all;
    int more = 0, same = 0;
    kaws_status status;

    v->refused = (kaws__stat){ 0 };
    kaws__file_again(f, &again);
    kaws__table_open(&fresh, v->hooks, v->table.seed);
    status = kaws__vault_read(&again, &fresh, &found, accounts, err);
    all = kaws__buf_view(&fresh.image);
    if (status == KAWS_OK && !again.exists)
        status = kaws__file_result(f, ENOENT, "open", KAWS__FILE_UNCHANGED,
                                   err);
    if (status == KAWS_OK) {
        more = kaws__store_begins(all, f->size, f->sum);
        same = more && all.len == f->size && f->torn == 0 && !v->uncertain &&
               again.stat.dev == f->stat.dev && again.stat.ino == f->stat.ino;
        if (!more && !(any && memcmp(found.file_id, f->file_id, 16) == 0)) {
            status = kaws__file_error(f, KAWS_CHANGED, "belongs to a different "
                                      "keyring; nothing was changed; put the "
                                      "right file back or, if it is this one, "
                                      "reopen the keyring (in MySQL restart "
                                      "the server)", err);
            v->refused = again.stat;
        }
    } else if (status == KAWS_CORRUPT) {
        v->refused = again.stat;
    }
    if (status == KAWS_OK && !same)
        status = kaws__save_accept(&again, all, &found, err);
    if (status == KAWS_OK) {
        kaws__trust_entries(v->trust, accounts);
        kaws__vault_take(v, &again, same ? NULL : &fresh, more);
    }
    kaws__thread_lock(&v->lock);
    v->uncertain |= status == KAWS_UNCERTAIN;
    kaws__thread_unlock(&v->lock);
    again.lock_fd = -1;                   /* that lock is the caller's        */
    kaws__file_release(&again);           /* a forked child may hold this one */
    kaws__disk_close(again.fd);
    kaws__table_close(&fresh);
    return status;
}


/* The file is not as it was. If another process may have added to it, reads it
 * again. Everything else is refused, with an error that says what differs, and
 * not read again until it changes. The file must be held; on failure the caller
 * releases it. */
static kaws_status
kaws__vault_catch_up(kaws__vault *v, kaws_error *err)
{
    kaws_error why = { 0 };
    kaws_status status;

    kaws__thread_lock(&v->lock);
    status = kaws__file_change(&v->file, err);
    kaws__thread_unlock(&v->lock);
    if (status != KAWS_CHANGED || !kaws__file_may_go_on(&v->file) ||
        !kaws__file_differs(&v->file, &v->refused, 1))
        return status;
    status = kaws__vault_reread(v, 0, &why);
    if (status == KAWS_CHANGED || status == KAWS_CORRUPT)
        return KAWS_CHANGED;
    *err = why;
    return status;
}


/* Takes over what other processes did to the file: all of it for
 * KAWS__TO_REFRESH, otherwise only what they added. A file that has not changed
 * costs one stat. If the file has a torn end, its times are compared, too,
 * because the entry that replaced the torn end may be just as long. A ring
 * whose file is uncertain takes over nothing by itself. */
static kaws_status
kaws__vault_refresh(kaws__vault *v, kaws__intent intent, kaws_error *err)
{
    const int any = intent == KAWS__TO_REFRESH;
    kaws__stat was;
    int uncertain, times;
    kaws_status status;

    kaws__thread_lock(&v->lock);
    status = kaws__vault_allows(v, intent, err);
    uncertain = any && v->uncertain;
    times = any || v->file.torn > 0;
    was = v->file.stat;
    kaws__thread_unlock(&v->lock);
    if (status != KAWS_OK ||
        (!uncertain && !kaws__file_differs(&v->file, &was, times)) ||
        (status = kaws__vault_hold(v, err)) != KAWS_OK)
        return status;
    if (v->uncertain && !any)
        status = kaws__vault_allows(v, KAWS__TO_ADD, err);
    else if (v->uncertain ||
             kaws__file_differs(&v->file, &v->file.stat, times))
        status = any ? kaws__vault_reread(v, 1, err)
                     : kaws__vault_catch_up(v, err);
    return kaws__vault_release(v, status);
}


/* ---- reading ----------------------------------------------------------- */

/* With the lock held: looks up a name. It must be there, and *hash is its hash
 * then; if `there` is 0, it must be free. */
static kaws_status
kaws__vault_find(const kaws__vault *v, const kaws__record *name, int there,
                 kaws__entry **e, uint64_t *hash, kaws_error *err)
{
    *e = kaws__table_find(&v->table, name->key_id, name->user_id, hash);
    if ((*e != NULL) == there)
        return KAWS_OK;
    return kaws__err_set(err, there ? KAWS_NOT_FOUND : KAWS_EXISTS, there
                         ? "there is no key '%s'"
                         : "the key '%s' is already there",
                         KAWS__SHOW(name->key_id));
}


/* With the lock held: copies a key's bytes. All threads that fetch keys want
 * this lock, so what the bytes say is read without it. */
static void
kaws__vault_copy(const kaws__entry *e, kaws__copy *copy)
{
    const kaws_bytes bytes = kaws__table_record(e);

    memcpy(copy->bytes, bytes.at, bytes.len);
}


/* Reads what the bytes say: all of a key but its context. */
static void
kaws__vault_unpack(kaws__copy *copy)
{
    const kaws__entry *e = (const kaws__entry *)copy->bytes;
    kaws__record *r = &copy->record;
    kaws_sealed *sealed = &copy->sealed;

    (void)kaws__store_split(kaws__table_record(e), r);
    memcpy(sealed->blob, r->blob.at, r->blob.len);
    sealed->blob_len = r->blob.len;
    (void)kaws__buf_copy_text(sealed->kms_key_arn, sizeof sealed->kms_key_arn,
                              r->arn);
    (void)kaws__buf_copy_text(sealed->key_material_id,
                              sizeof sealed->key_material_id, r->material);
}


/* Looks up the name in copy->record, and copies the key, but not its encryption
 * context. For KAWS__TO_ADD it only checks that the name is free, and fills in
 * the context of the new key. If the answer is a failure, another process may
 * have changed that, so it refreshes and looks once more. It releases the lock,
 * so a change has to look again. */
static kaws_status
kaws__vault_look(kaws__vault *v, kaws__intent intent, kaws__copy *copy,
                 kaws_error *err)
{
    kaws__entry *e = NULL;
    uint64_t hash = 0;
    kaws_status status;
    int again = 0;

    do {
        kaws__err_clear(err);
        kaws__thread_lock(&v->lock);
        if ((status = kaws__vault_allows(v, intent, err)) == KAWS_OK)
            status = kaws__vault_find(v, &copy->record, intent != KAWS__TO_ADD,
                                      &e, &hash, err);
        if (status == KAWS_OK && e != NULL) {
            kaws__vault_copy(e, copy);
            copy->generation = v->shield.generation;
            copy->id = kaws__thread_peek(&v->shield.seconds) == 0 ? 0 : hash;
        }
        kaws__thread_unlock(&v->lock);
    } while (status != KAWS_OK && again++ == 0 &&
             (status = kaws__vault_refresh(v, intent, err)) == KAWS_OK);
    if (status == KAWS_OK && e != NULL)
        kaws__vault_unpack(copy);
    if (intent == KAWS__TO_ADD)
        kaws__bind_key(v->file_hex, &copy->record, &copy->bound);
    return status;
}


/* Copies the oldest key whose serial is at least `from` and below `limit`.
 * Returns its serial; 0: there is none. */
static uint64_t
kaws__vault_claim(kaws__vault *v, uint64_t from, uint64_t limit,
                  kaws__copy *copy)
{
    uint64_t serial = 0;
    size_t i;

    kaws__thread_lock(&v->lock);
    i = kaws__table_from(&v->table, from);
    if (i < v->table.count && v->table.rows[i].serial < limit) {
        serial = v->table.rows[i].serial;
        kaws__vault_copy(v->table.rows[i].entry, copy);
    }
    kaws__thread_unlock(&v->lock);
    if (serial > 0) {
        kaws__vault_unpack(copy);
        kaws__bind_key(v->file_hex, &copy->record, &copy->bound);
    }
    return serial;
}


/* Counts the keys, those of other processes included. All their serials are
 * below *limit, and those of later keys are not. Fails if the keys may not be
 * changed. */
static kaws_status
kaws__vault_extent(kaws__vault *v, size_t *count, uint64_t *limit,
                   kaws_error *err)
{
    kaws_status status = kaws__vault_refresh(v, KAWS__TO_ADD, err);

    kaws__thread_lock(&v->lock);
    *count = v->table.count;
    *limit = v->table.next_serial;
    kaws__thread_unlock(&v->lock);
    return status;
}


/* Appends for each key, oldest first: a kaws_entry_info without its pointers,
 * then key id, user id, type and ARN, each with a NUL. */
static void
kaws__vault_list(kaws__vault *v, kaws__buf *out)
{
    kaws__record r;
    const kaws_bytes *const texts[] = { &r.key_id, &r.user_id, &r.type,
                                        &r.arn };
    kaws_entry_info info;
    size_t i, k;

    memset(&info, 0, sizeof info);
    memset(&r, 0, sizeof r);
    kaws__thread_lock(&v->lock);
    for (i = 0; i < v->table.count; i++) {
        (void)kaws__store_split(kaws__table_record(v->table.rows[i].entry),
                                &r);
        info.len = r.plain_len;
        info.created = r.created;
        kaws__buf_put(out, &info, sizeof info);
        for (k = 0; k < 4; k++) {
            kaws__buf_put(out, texts[k]->at, texts[k]->len);
            kaws__buf_put(out, "", 1);
        }
    }
    kaws__thread_unlock(&v->lock);
}


static void
kaws__vault_stats(kaws__vault *v, kaws_stats *stats)
{
    kaws__record last = { .created = 0 };

    kaws__thread_lock(&v->lock);
    if ((stats->keys = v->table.count) > 0) {
        (void)kaws__store_split(
            kaws__table_record(v->table.rows[stats->keys - 1].entry), &last);
        stats->newest = last.created;
    }
    memcpy(stats->checksum, kaws__file_sum(&v->file), sizeof stats->checksum);
    kaws__thread_unlock(&v->lock);
    stats->cache_hits = kaws__shield_hits(&v->shield);
}


/* ---- changing ---------------------------------------------------------- */

/* Ends a change, and returns `status`. `done` is for the log: what was done to
 * the file; NULL: nothing. */
static kaws_status
kaws__vault_end(kaws__vault *v, kaws_status status, const char *done)
{
    char state[80];

    v->uncertain |= status == KAWS_UNCERTAIN;
    if (done != NULL)
        kaws__err_log(v->hooks, KAWS__LOG_CHANGED, done, v->file.shown,
                      kaws__vault_state(v, state));
    kaws__thread_unlock(&v->lock);
    return kaws__vault_release(v, status);
}


/* Begins a change; vault_end ends it. On failure nothing has begun. */
static kaws_status
kaws__vault_begin(kaws__vault *v, kaws_error *err)
{
    kaws_status status = kaws__vault_hold(v, err);

    if (status != KAWS_OK)
        return status;
    if (!v->uncertain && kaws__file_differs(&v->file, &v->file.stat,
                                            v->file.torn > 0) &&
        (status = kaws__vault_catch_up(v, err)) != KAWS_OK)
        return kaws__vault_release(v, status);
    kaws__thread_lock(&v->lock);
    if ((status = kaws__vault_allows(v, KAWS__TO_ADD, err)) == KAWS_OK)
        status = kaws__save_mend(&v->file, kaws__buf_view(&v->table.image),
                                 err);
    return status == KAWS_OK ? KAWS_OK : kaws__vault_end(v, status, NULL);
}


/* Makes the entry of a key that KMS has sealed, to add it or to replace
 * another. NULL: out of memory. */
static kaws__entry *
kaws__vault_entry(const kaws_hooks *hooks, const kaws__record *key,
                  const kaws_sealed *sealed)
{
    kaws__record r = *key;
    kaws__entry *e = NULL;
    kaws__buf bytes;

    r.arn = kaws__buf_of(sealed->kms_key_arn);
    r.material = kaws__buf_of(sealed->key_material_id);
    r.blob = (kaws_bytes){ sealed->blob, sealed->blob_len };
    kaws__buf_init(&bytes, hooks);
    kaws__store_record(&bytes, &r);
    if (!bytes.failed)
        e = kaws__table_new(hooks, kaws__buf_view(&bytes));
    kaws__buf_free(&bytes);
    return e;
}


/* Adds a key that KMS has sealed, if its name is still free. */
static kaws_status
kaws__vault_add(kaws__vault *v, kaws__record *key, const kaws_sealed *sealed,
                kaws_error *err)
{
    kaws__entry *e, *other;
    uint64_t hash;
    int landed = 0;
    kaws_status status;

    key->created = v->hooks->now_ms(v->hooks->ctx) / 1000;
    if (key->created < 0 || key->created > 253402300799)
        key->created = 0;                 /* no clock may spoil the file      */
    e = kaws__vault_entry(v->hooks, key, sealed);
    if ((status = kaws__vault_begin(v, err)) == KAWS_OK) {
        if (e == NULL || !kaws__table_reserve(&v->table, 1))
            status = kaws__err_memory(err, "adding a key");
        else if ((status = kaws__vault_find(v, key, 0, &other, &hash,
                                              err)) == KAWS_OK)
            status = kaws__save_append(&v->file, kaws__table_record(e), &landed,
                                       err);
        if (landed)
            (void)kaws__table_add(&v->table, e);
        status = kaws__vault_end(v, status, landed ? "added a key to" : NULL);
    }
    if (!landed)
        kaws__table_discard(v->hooks, e);
    return status;
}


/* Writes the entries of a replacement: the table's without `skip`. If a serial
 * is in `fresh`, the entry there is written instead. */
static void
kaws__vault_write(const kaws__vault *v, const kaws__entry *skip,
                  const kaws__row *fresh, size_t n, kaws__writer *w)
{
    const kaws__row *row = v->table.rows, *end = row + v->table.count;
    const kaws__entry *e;

    for (; row < end; row++) {
        for (; n > 0 && fresh->serial < row->serial; n--)
            fresh++;                      /* that key was removed meanwhile   */
        e = n > 0 && fresh->serial == row->serial ? fresh->entry : row->entry;
        if (e != skip)
            kaws__save_put(w, kaws__table_record(e));
    }
}


/* Replaces the file, then changes the table. If `gone` is not NULL, that key is
 * removed. Otherwise n keys that were sealed again replace the keys with the
 * same serials; `fresh` is in the order of the serials, which are below
 * `limit`. Afterwards the entries that the table took over are NULL in `fresh`;
 * the caller still owns the others. */
static kaws_status
kaws__vault_replace(kaws__vault *v, const kaws__record *gone, kaws__row *fresh,
                    size_t n, uint64_t limit, kaws_error *err)
{
    kaws__table *t = &v->table;
    kaws__entry *skip = NULL;
    kaws__writer w;
    uint64_t hash;
    size_t i;
    int landed = 0;
    kaws_status status = kaws__vault_begin(v, err);

    if (status != KAWS_OK)
        return status;
    if (limit < t->since)
        status = kaws__err_set(err, KAWS_CHANGED, "the data file %s was read "
                               "again (kaws_refresh) while its keys were re-"
                               "wrapped; nothing was changed; repeat it",
                               v->file.shown);
    else if (gone != NULL)
        status = kaws__vault_find(v, gone, 1, &skip, &hash, err);
    if (status == KAWS_OK &&
        (status = kaws__save_begin(&v->file, &w, err)) == KAWS_OK) {
        kaws__vault_write(v, skip, fresh, n, &w);
        status = kaws__save_commit(&v->file, &w, &landed, err);
    }
    if (!landed)
        return kaws__vault_end(v, status, NULL);
    kaws__shield_empty(&v->shield, 1);
    if (skip != NULL)
        kaws__table_remove(t, skip);
    for (; n > 0; fresh++, n--) {
        i = kaws__table_from(t, fresh->serial);
        if (i == t->count || t->rows[i].serial != fresh->serial)
            continue;                     /* that key was removed meanwhile   */
        kaws__table_swap(t, i, fresh->entry);
        fresh->entry = NULL;
    }
    return kaws__vault_end(v, status, gone != NULL ? "removed a key from"
                           : "re-wrapped all keys in");
}


/* ---- opening ----------------------------------------------------------- */

/* Reads the file, or makes a new one. With its locks held. */
static kaws_status
kaws__vault_start(kaws__vault *v, kaws_error *err)
{
    char accounts[KAWS__TRUST_LIST] = "";
    kaws__found found;
    kaws_status status = kaws__vault_read(&v->file, &v->table, &found, accounts,
                                          err);

    if (status != KAWS_OK)
        return status;
    if (!v->file.exists)
        return kaws__save_create(&v->file, err);
    kaws__trust_entries(v->trust, accounts);
    return kaws__save_accept(&v->file, kaws__buf_view(&v->table.image), &found,
                             err);
}


/* Opens or makes the data file; without a path there is none, and no key. *v
 * must be all zeros before. Close it even on failure. */
static kaws_status
kaws__vault_open(kaws__vault *v, const kaws_hooks *hooks, kaws__trust *trust,
                 const kaws_config *cfg, kaws_error *err)
{
    enum { COUNT = 4 };
    const struct { const char *path, *setting; } others[COUNT] = {
        { cfg->conf_file, "conf_file" }, { cfg->ca_file, "ca_file" },
        { cfg->config_file, "config_file" },
        { cfg->credentials_file, "credentials_file" }
    };
    uint64_t seed[2];
    kaws_status status;
    size_t i;

    if (kaws__shield_open(&v->shield, hooks) != 0 ||
        kaws__thread_lock_init(&v->lock, KAWS__RANK_VAULT) != 0 ||
        kaws__thread_turn_init(&v->turn, KAWS__RANK_TURN) != 0)
        return kaws__err_memory(err, "making a lock for the ring");
    v->hooks = hooks;
    v->trust = trust;
    v->read_only = cfg->read_only;
    if (cfg->data_file == NULL && !cfg->must_exist)
        return KAWS_OK;
    if (cfg->data_file == NULL || *cfg->data_file == '\0')
        return kaws__err_set(err, KAWS_CONFIG, "data_file is %s",
                             cfg->data_file != NULL ? "empty"
                             : "not set, and must_exist says that it is there");
    if (hooks->random(hooks->ctx, seed, sizeof seed) != 0)
        return kaws__err_set(err, KAWS_RANDOM, "the system provided no random "
                             "bytes");
    kaws__table_open(&v->table, hooks, seed);
    status = kaws__file_open(&v->file, hooks, cfg->data_file, v->read_only
                             ? KAWS__TO_READ : cfg->must_exist ? KAWS__IF_THERE
                             : KAWS__OR_NEW, err);
    if (status != KAWS_OK)
        return status;
    v->has_file = 1;
    for (i = 0; i < COUNT && status == KAWS_OK; i++)
        status = kaws__file_apart(&v->file, others[i].path, others[i].setting,
                                  err);
    if (status == KAWS_OK &&
        (status = kaws__file_hold(&v->file, 0, err)) == KAWS_OK) {
        status = kaws__vault_start(v, err);
        kaws__file_release(&v->file);
    }
    kaws__text_hex(v->file_hex, kaws__file_id(&v->file), 16);
    v->uncertain = status != KAWS_OK;     /* so closing it changes nothing    */
    return status;
}


/* For a forked child. The file is the parent's, so closing it must write
 * nothing. Threads of the parent may have waited for their turn; they do not
 * exist here, and so cannot end their wait. */
static void
kaws__vault_abandon(kaws__vault *v)
{
    v->uncertain = 1;
    memset(&v->turn, 0, sizeof v->turn);
    v->shield.lock.ready = 0;
}


/* Closes the vault, which nobody uses any more. */
static void
kaws__vault_close(kaws__vault *v)
{
    kaws_error err;

    if (v->has_file && !v->uncertain && !v->read_only) {
        (void)kaws__vault_refresh(v, KAWS__TO_FETCH, &err);
        kaws__save_finish(&v->file);
    }
    if (v->has_file)
        kaws__file_close(&v->file);
    kaws__table_close(&v->table);
    kaws__shield_close(&v->shield);
    kaws__thread_lock_free(&v->lock);
    kaws__thread_turn_free(&v->turn);
}


/* ==========================================================================
 * ROOM  rewrap   every key under new key material: re-encrypt, prove, replace
 * ==========================================================================
 * Uses: thread err mem buf text arn op kms table vault
 * Gives: rewrap_open rewrap_close rewrap_rotate rewrap_all rewrap_stats
 *
 * Each of several workers claims a key, has KMS re-encrypt it, and has KMS
 * confirm in a dry run that the new blob decrypts to that key. When all are
 * done, the file is replaced once; after any failure it is not touched. The
 * lock here guards one re-wrap and its counters; the vault's lock may be taken
 * while it is held.
 */

typedef struct kaws__rewrap {
    const kaws_hooks *hooks;
    kaws__shared *kms;
    kaws__vault  *vault;
    int           parallel;       /* calls under way at once, at most         */
    kaws__lock    lock;           /* guards all below, and a kaws__run        */
    uint64_t      done, total;    /* keys of the re-wrap; 0: none is running  */
} kaws__rewrap;

typedef struct kaws__run {        /* one re-wrap                              */
    kaws__rewrap *rewrap;
    kaws__target  target;         /* what it seals with, from start to end    */
    uint64_t      next, limit;    /* serials: claim from next, below limit    */
    kaws__row    *fresh;          /* as claimed, so in the order of serials   */
    uint64_t     *numbers;        /* three a key: see rewrap_distinct         */
    size_t        claimed, ended, max;
    size_t        renewed;        /* keys with other key material than before */
    kaws__cancel  cancel;         /* what its workers ask                     */
    kaws_status   status;         /* the first failure                        */
    kaws_error    err;
} kaws__run;


/* *w is all zeros before. Close it in any case. */
static kaws_status
kaws__rewrap_open(kaws__rewrap *w, const kaws_hooks *hooks, kaws__shared *kms,
                  kaws__vault *vault, int parallel, kaws_error *err)
{
    if (kaws__thread_lock_init(&w->lock, KAWS__RANK_REWRAP) != 0)
        return kaws__err_memory(err, "making a lock for the ring");
    w->hooks = hooks;
    w->kms = kms;
    w->vault = vault;
    w->parallel = parallel <= 0 ? 16 : parallel > 64 ? 64 : parallel;
    return KAWS_OK;
}


static void
kaws__rewrap_close(kaws__rewrap *w)
{
    kaws__thread_lock_free(&w->lock);
}


static void
kaws__rewrap_stats(kaws__rewrap *w, kaws_stats *stats)
{
    kaws__thread_lock(&w->lock);
    stats->rewrap_done = w->done;
    stats->rewrap_total = w->total;
    kaws__thread_unlock(&w->lock);
}


/* Begins an operation. What it asks for, the KMS key's own region does alone:
 * only there a KMS key is rotated, and a new blob is to be proved where it was
 * made. */
static kaws__op
kaws__rewrap_begin(const kaws__rewrap *w, kaws_error *err)
{
    kaws__op op = kaws__op_begin(w->kms, err);

    op.at_home = 1;
    return op;
}


/* ---- rotating the KMS key ---------------------------------------------- */

/* Has KMS make new key material. KMS answers that request before it seals with
 * the new material, so this function then asks until it does. It gives up after
 * the timeout, by the clock or, if the clock stands still, by the sum of the
 * pauses; the rotation has succeeded all the same. */
static kaws_status
kaws__rewrap_rotate(kaws__rewrap *w, kaws_error *err)
{
    kaws__op op = kaws__rewrap_begin(w, err), whole;
    int most, same, paused = 0, pause = 100;
    kaws_sealed before, now;
    kaws__target target = op.target;
    kaws_status status = kaws__kms_probe(&op, 0, &before);

    op = kaws__rewrap_begin(w, err);
    if (status == KAWS_OK) {
        (void)kaws__arn_target(&target, before.kms_key_arn, "", NULL);
        op.target = target;
        status = kaws__kms_rotate(&op);
    }
    if (status != KAWS_OK || before.key_material_id[0] == '\0')
        return status;                    /* this KMS names no material       */
    whole = kaws__rewrap_begin(w, err);
    most = kaws__op_left_ms(&whole);
    for (;; paused += pause, pause = pause < 1600 ? pause * 2 : pause) {
        op = kaws__rewrap_begin(w, err);
        op.target = target;
        status = kaws__kms_probe(&op, 0, &now);
        same = status == KAWS_OK && strcmp(now.key_material_id,
                                           before.key_material_id) == 0;
        if (!same || paused >= most || pause >= kaws__op_left_ms(&whole) ||
            kaws__thread_pause(w->hooks, &op.cancel, pause))
            break;
    }
    if (status != KAWS_OK || same)
        kaws__err_log(w->hooks, KAWS__LOG_ROTATION, target.key_id, same
                      ? "still seals with the old key material: re-encrypt "
                        "later" : "whether it is done could not be seen: ",
                      err->text);
    kaws__err_clear(err);
    return KAWS_OK;
}


/* ---- re-wrapping all keys ---------------------------------------------- */

/* Whether a worker should stop. If the hook has said so to one of the workers,
 * or if one has failed, all stop. */
static int
kaws__rewrap_cancelled(void *arg)
{
    kaws__run *run = arg;
    const kaws_hooks *hooks = run->rewrap->hooks;
    int cancelled = hooks->cancelled(hooks->ctx);

    kaws__thread_lock(&run->rewrap->lock);
    if (cancelled && run->status == KAWS_OK)
        run->status = kaws__err_cancelled(&run->err, "AWS KMS");
    cancelled = run->status != KAWS_OK;
    kaws__thread_unlock(&run->rewrap->lock);
    return cancelled;
}


/* Begins an operation for a worker. */
static kaws__op
kaws__rewrap_op(kaws__run *run, kaws_error *err)
{
    kaws__op op = kaws__rewrap_begin(run->rewrap, err);

    op.target = run->target;
    op.entry = 1;
    op.cancel = run->cancel;
    return op;
}


/* Has KMS seal the key again, and confirm that the new blob decrypts to this
 * very key. Each of the two steps has a whole timeout. */
static kaws_status
kaws__rewrap_reseal(kaws__run *run, const kaws__copy *copy, kaws_sealed *out,
                    uint64_t numbers[3], kaws_error *err)
{
    const kaws_context *ctx = &copy->bound.context;
    size_t len = copy->record.plain_len;
    kaws__op op = kaws__rewrap_op(run, err);
    kaws_status status;

    out->blob_len = 0;
    status = kaws__kms_reencrypt(&op, ctx, &copy->sealed, len, out);
    numbers[0] = op.reply_id;
    if (status != KAWS_OK)
        return status;
    numbers[2] = kaws__buf_digest((kaws_bytes){ out->blob, out->blob_len });
    op = kaws__rewrap_op(run, err);
    status = kaws__kms_prove(&op, ctx, out, len);
    numbers[1] = op.reply_id;
    if (status == KAWS_DENIED)
        (void)kaws__err_set(err, status, "each new blob is verified, which "
                            "needs the right to kms:Decrypt: %s", err->text);
    return status;
}


/* Re-wraps one claimed key. The run keeps the first error only. */
static void
kaws__rewrap_one(kaws__run *run, const kaws__copy *copy, size_t index)
{
    const kaws_sealed *old = &copy->sealed;
    kaws_sealed sealed;
    kaws_error err;
    kaws__entry *e = NULL;
    kaws_status status;

    kaws__err_clear(&err);
    status = kaws__rewrap_reseal(run, copy, &sealed, run->numbers + 3 * index,
                                 &err);
    if (status == KAWS_OK &&
        (e = kaws__vault_entry(run->rewrap->hooks, &copy->record, &sealed)) ==
        NULL)
        status = kaws__err_memory(&err, "keeping its new blob");
    kaws__thread_lock(&run->rewrap->lock);
    run->fresh[index].entry = e;
    run->ended++;
    if (status == KAWS_OK) {
        run->rewrap->done++;
        run->renewed += strcmp(sealed.kms_key_arn, old->kms_key_arn) != 0 ||
            strcmp(sealed.key_material_id, old->key_material_id) != 0;
    } else if (run->status == KAWS_OK) {
        (void)kaws__err_set(&err, status, "re-wrapping the key '%s' failed, "
                            "and nothing was changed: %s",
                            KAWS__SHOW(copy->record.key_id), err.text);
        run->status = status;
        run->err = err;
    }
    kaws__thread_unlock(&run->rewrap->lock);
}


/* Claims keys, oldest first, and has each sealed again, until there are no more
 * or one has failed. A worker that has nothing left to do goes on asking the
 * hook until the others have ended, because only the caller's own thread may
 * know of a cancellation. */
static void
kaws__rewrap_worker(void *arg)
{
    kaws__run *run = arg;
    kaws__copy copy;
    uint64_t serial;
    size_t index;
    int busy;

    do {
        serial = 0;
        kaws__thread_lock(&run->rewrap->lock);
        index = run->claimed;
        if (run->status == KAWS_OK && index < run->max)
            serial = kaws__vault_claim(run->rewrap->vault, run->next,
                                       run->limit, &copy);
        if (serial > 0) {
            run->next = serial + 1;
            run->fresh[run->claimed++].serial = serial;
        }
        kaws__thread_unlock(&run->rewrap->lock);
        if (serial > 0)
            kaws__rewrap_one(run, &copy, index);
    } while (serial > 0);
    do {
        kaws__thread_lock(&run->rewrap->lock);
        busy = run->cancel.asked != NULL && run->ended < run->claimed;
        kaws__thread_unlock(&run->rewrap->lock);
    } while (busy && !kaws__thread_pause(run->rewrap->hooks, &run->cancel, 10));
}


static int
kaws__rewrap_by_number(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}


/* KMS makes neither a blob nor a request id twice. If two keys got the same
 * one, one of them got the other's reply. A key's three numbers are digests of
 * its two request ids (0: KMS sent none) and of its blob. */
static kaws_status
kaws__rewrap_distinct(kaws__run *run, kaws_error *err)
{
    size_t n = 3 * run->claimed, i;

    qsort(run->numbers, n, sizeof *run->numbers, kaws__rewrap_by_number);
    for (i = 1; i < n; i++)
        if (run->numbers[i] != 0 && run->numbers[i] == run->numbers[i - 1])
            return kaws__kms_mixed_up(run->rewrap->kms, "two replies to the "
                                      "re-wrap were the same, and nothing was "
                                      "changed", err);
    return KAWS_OK;
}


/* Re-wraps run->max keys under the KMS key that seals now. */
static kaws_status
kaws__rewrap_run(kaws__run *run, kaws_error *err)
{
    const kaws__rewrap *w = run->rewrap;
    size_t size = run->max * (sizeof *run->fresh + 3 * sizeof *run->numbers);
    size_t threads = (size_t)w->parallel, i;
    kaws__op op = kaws__rewrap_begin(w, err);
    kaws_sealed sealed;
    kaws_status status = kaws__kms_probe(&op, 0, &sealed);

    if (status != KAWS_OK || run->max == 0)
        return status;
    (void)kaws__arn_target(&run->target, sealed.kms_key_arn, "", NULL);
    if ((run->fresh = kaws__mem_new(w->hooks, size)) == NULL)
        return kaws__err_memory(err, "re-wrapping");
    run->numbers = (uint64_t *)(void *)(run->fresh + run->max);
    run->cancel.arg = run;
    run->cancel.asked = w->hooks->cancelled != NULL ? kaws__rewrap_cancelled
                                                    : NULL;
    kaws__thread_parallel((int)(threads < run->max ? threads : run->max),
                          kaws__rewrap_worker, run);
    if ((status = run->status) != KAWS_OK)
        *err = run->err;
    else if ((status = kaws__rewrap_distinct(run, err)) == KAWS_OK)
        status = kaws__vault_replace(w->vault, NULL, run->fresh, run->claimed,
                                     run->limit, err);
    if (status == KAWS_OK && run->claimed > 0 && run->renewed == 0)
        kaws__err_log(w->hooks, KAWS__LOG_NOT_RENEWED);
    for (i = 0; i < run->claimed; i++)
        kaws__table_discard(w->hooks, run->fresh[i].entry);
    kaws__mem_free(w->hooks, run->fresh, size);
    return status;
}


/* Only one re-wrap of a ring runs at a time. A re-wrap of no keys does not
 * count. */
static kaws_status
kaws__rewrap_all(kaws__rewrap *w, kaws_error *err)
{
    kaws__run run = { .rewrap = w };
    kaws_status status = kaws__vault_extent(w->vault, &run.max, &run.limit,
                                            err);

    kaws__thread_lock(&w->lock);
    if (status == KAWS_OK && w->total > 0)
        status = kaws__err_set(err, KAWS_RUNNING, "a re-wrap is already "
                               "running: %s of %s key%s done",
                               KAWS__DECIMAL(w->done), KAWS__COUNT(w->total));
    if (status == KAWS_OK)
        w->total = run.max;
    kaws__thread_unlock(&w->lock);
    if (status != KAWS_OK)
        return status;
    status = kaws__rewrap_run(&run, err);
    kaws__thread_lock(&w->lock);
    if (run.max > 0)
        w->done = w->total = 0;
    kaws__thread_unlock(&w->lock);
    return status;
}


/* ==========================================================================
 * ROOM  ring     the public functions: arguments, policy, calls
 * ==========================================================================
 * Uses: sys thread disk err mem buf text http arn regions hosts creds trust
 *        shield op kms scout store bind vault rewrap
 * Gives: kaws_open kaws_check kaws_close kaws_generate
 *        kaws_store kaws_fetch kaws_remove kaws_key_free kaws_walk_begin
 *        kaws_walk_next kaws_walk_end kaws_use_kms_key kaws_use_region kaws_use
 *        kaws_try kaws_could_use kaws_use_timeouts kaws_use_cache
 *        kaws_reload_creds kaws_whoami kaws_rotate_kms_key kaws_rewrap_all
 *        kaws_refresh kaws_get_stats kaws_kms_generate_data_key
 *        kaws_kms_encrypt kaws_kms_decrypt kaws_kms_reencrypt
 *
 * A ring holds a vault, the KMS calls, and a re-wrap that uses both. A thread
 * that waits for KMS holds no lock but SETTINGS. So an entry may change
 * meanwhile: the vault looks again before it changes anything.
 */

struct kaws {
    kaws_hooks   hooks;
    long         pid;             /* of the process that opened it            */
    kaws__buf    strings;         /* the config's, copied                     */
    kaws__shared kms;
    kaws__scout  scout;
    kaws__vault  vault;
    kaws__rewrap rewrap;
    kaws__turn   settings;        /* taken while KMS is asked about new ones  */
};


/* A public function at work. A thread that is cancelled would never release its
 * locks nor wipe its keys, so it cannot be cancelled meanwhile. */
typedef struct kaws__door {
    kaws       *ring;             /* NULL: it cannot be used                  */
    kaws_error  spare;            /* for a caller that wants no error         */
    int         cancel;           /* the thread's state before                */
} kaws__door;


/* Begins a public function: returns the error to fill, which is never NULL. If
 * the ring is NULL, or a different process opened it, the error already says
 * so. */
static kaws_error *
kaws__ring_enter(kaws__door *door, kaws *ring, kaws_error *error)
{
    kaws_error *err = error != NULL ? error : &door->spare;

    KAWS__CANCEL_OFF(&door->cancel);
    kaws__err_clear(err);
    door->ring = ring != NULL && ring->pid == kaws__sys_pid() ? ring : NULL;
    if (ring == NULL)
        (void)kaws__err_argument(err, "ring must not be NULL");
    else if (ring->pid != kaws__sys_pid())
        (void)kaws__err_set(err, KAWS_CONFIG, "the ring was opened by process "
                            "%ld, and this is its child %ld: a child process "
                            "has to open a ring of its own", ring->pid,
                            kaws__sys_pid());
    return err;
}


/* Ends a public function, and returns the status of its error. */
static kaws_status
kaws__ring_leave(kaws__door *door, kaws_status status)
{
    if (door->ring != NULL && door->ring->kms.regions.count > 0)
        kaws__scout_run(&door->ring->scout);
    KAWS__CANCEL_BACK(door->cancel);
    return status;
}


/* Ends a public function whose arguments are wrong. */
static kaws_status
kaws__ring_refuse(kaws__door *door, kaws_error *err, const char *wrong)
{
    kaws_status status = err->status;

    if (status == KAWS_OK || status == KAWS_ARGUMENT)
        status = kaws__err_argument(err, wrong);
    return kaws__ring_leave(door, status);
}


/* ---- opening ----------------------------------------------------------- */

static void
kaws__ring_hooks(kaws_hooks *h)
{
    h->memory = h->memory != NULL ? h->memory : kaws__mem_builtin;
    h->now_ms = h->now_ms != NULL ? h->now_ms : kaws__sys_now_ms;
    h->ticks_ms = h->ticks_ms != NULL ? h->ticks_ms : kaws__sys_ticks_ms;
    h->sleep_ms = h->sleep_ms != NULL ? h->sleep_ms : kaws__sys_sleep_ms;
    h->random = h->random != NULL ? h->random : kaws__sys_random;
}


/* Copies the config's strings into one block, because the caller need not keep
 * them, and points the config at the copies. */
static kaws_status
kaws__ring_copy_strings(kaws *ring, kaws_config *cfg, kaws_error *err)
{
    enum { PATHS = 5, COUNT = 17 };
    const char **const texts[COUNT] = {
        &cfg->data_file, &cfg->conf_file, &cfg->ca_file, &cfg->config_file,
        &cfg->credentials_file, &cfg->kms_key_id, &cfg->region, &cfg->accounts,
        &cfg->endpoint, &cfg->auth, &cfg->profile, &cfg->sts_endpoint,
        &cfg->role_arn, &cfg->role_external_id, &cfg->role_session_name,
        &cfg->failover_regions, &cfg->proxy
    };
    char *at;
    size_t i, n;

    for (i = 0; i < COUNT; i++)
        if (*texts[i] != NULL)
            kaws__buf_put(&ring->strings, *texts[i], strlen(*texts[i]) + 1);
    if (ring->strings.failed)
        return kaws__err_memory(err, "opening the ring");
    at = (char *)ring->strings.at;
    for (i = 0; i < COUNT; i++) {
        if (*texts[i] == NULL)
            continue;
        *texts[i] = at;
        n = strlen(at) + 1;
        if (i < PATHS)
            kaws__disk_tidy_path(at);
        at += n;
    }
    return KAWS_OK;
}


/* see Part II */
KAWS_API void
kaws_close(kaws *ring)
{
    kaws_hooks hooks;
    kaws__door door;

    if (ring == NULL)
        return;
    if (kaws__ring_enter(&door, ring, NULL)->status != KAWS_OK) {
        kaws__vault_abandon(&ring->vault);
        memset(&ring->settings, 0, sizeof ring->settings);
        kaws__creds_abandon(&ring->kms.creds);
        kaws__http_abandon(&ring->kms.http);
        kaws__scout_abandon(&ring->scout);
    }
    hooks = ring->hooks;
    kaws__scout_close(&ring->scout);
    kaws__vault_close(&ring->vault);
    kaws__rewrap_close(&ring->rewrap);
    kaws__op_close(&ring->kms);
    kaws__buf_free(&ring->strings);
    kaws__thread_turn_free(&ring->settings);
    kaws__mem_free(&hooks, ring, sizeof *ring);
    KAWS__CANCEL_BACK(door.cancel);
}


/* Logs one line with all that the ring was opened with. */
static void
kaws__ring_announce(kaws *r)
{
    kaws__shared *k = &r->kms;
    const char *key = k->trust.now.target.key_id;     /* no other thread yet  */
    kaws_identity who;
    const char *ends = kaws__op_identity(&r->kms, &who);
    char state[80], accounts[256];

    kaws__err_log(&r->hooks, KAWS__LOG_OPENED, r->vault.file.shown,
                  kaws__vault_state(&r->vault, state),
                  *key == '\0' ? "(not set)" : key, who.region, who.endpoint,
                  kaws__trust_tell(&k->trust, accounts, sizeof accounts), ends,
                  k->connect_timeout_ms, k->timeout_ms);
}


/* see Part II */
KAWS_API kaws_status
kaws_open(kaws **ring, const kaws_config *cfg, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, NULL, error);
    kaws_config config;
    kaws_status status;
    kaws *r;

    if (ring != NULL)
        *ring = NULL;
    if (ring == NULL || cfg == NULL)
        return kaws__ring_refuse(&door, err, "ring and cfg must not be NULL");
    kaws__err_clear(err);
    config = *cfg;
    kaws__ring_hooks(&config.hooks);
    r = kaws__mem_new(&config.hooks, sizeof *r);
    if (r == NULL ||
        kaws__thread_turn_init(&r->settings, KAWS__RANK_SETTINGS) != 0) {
        kaws__mem_free(&config.hooks, r, sizeof *r);
        (void)kaws__err_memory(err, "opening the ring");
        return kaws__ring_leave(&door, KAWS_MEMORY);
    }
    r->hooks = config.hooks;
    r->pid = kaws__sys_pid();
    kaws__buf_init(&r->strings, &r->hooks);
    if ((status = kaws__ring_copy_strings(r, &config, err)) == KAWS_OK &&
        (status = kaws__op_open(&r->kms, &r->hooks, &config, err)) == KAWS_OK &&
        (status = kaws__scout_open(&r->scout, &r->kms, err)) == KAWS_OK &&
        (status = kaws__rewrap_open(&r->rewrap, &r->hooks, &r->kms, &r->vault,
                                    config.rewrap_parallel, err)) == KAWS_OK) {
        kaws__op_files(&r->kms, &config);
        status = kaws__vault_open(&r->vault, &r->hooks, &r->kms.trust, &config,
                                  err);
    }
    if (status != KAWS_OK) {
        kaws_close(r);
        return kaws__ring_leave(&door, status);
    }
    if (config.data_file != NULL)
        kaws__ring_announce(r);
    kaws__op_doubt(&r->kms);
    r->kms.shield = &r->vault.shield;
    kaws__shield_set(&r->vault.shield, config.cache_seconds);
    *ring = r;
    return kaws__ring_leave(&door, KAWS_OK);
}


/* ---- asking KMS to prove itself ---------------------------------------- */

/* see Part II */
KAWS_API kaws_status
kaws_check(kaws *ring, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    kaws_sealed sealed;
    kaws__op op;

    if (err->status == KAWS_OK) {
        op = kaws__op_begin(&ring->kms, err);
        (void)kaws__kms_probe(&op, 1, &sealed);
    }
    return kaws__ring_leave(&door, err->status);
}


/* ---- keys -------------------------------------------------------------- */

/* Adds a key of plain.len bytes: the caller's, or (plain.at NULL) one that KMS
 * makes. *err says how it went. */
static void
kaws__ring_add(kaws *ring, kaws_name name, const char *type, kaws_bytes plain,
               kaws_error *err)
{
    const kaws_bytes view = kaws__buf_of(type != NULL ? type : "");
    kaws__copy key;
    kaws__op op;

    if (err->status != KAWS_OK ||
        kaws__bind_name(name, &key.record, err) != KAWS_OK)
        return;
    key.record.type = view;
    key.record.plain_len = plain.len;
    if (!kaws__store_type_ok(view)) {
        (void)kaws__err_argument(err, "the key type is not 1 to 15 letters, "
                                 "digits, - and _");
        return;
    }
    op = kaws__op_begin(&ring->kms, err);
    if (kaws__kms_has_key(&op) == KAWS_OK &&
        kaws__vault_look(&ring->vault, KAWS__TO_ADD, &key, err) == KAWS_OK &&
        kaws__kms_seal(&op, &key.bound.context, plain, NULL,
                       &key.sealed) == KAWS_OK &&
        (plain.at == NULL ||
         kaws__kms_prove_key(&op, &key.bound.context, &key.sealed,
                             plain) == KAWS_OK))
        (void)kaws__vault_add(&ring->vault, &key.record, &key.sealed, err);
}


/* see Part II */
KAWS_API kaws_status
kaws_generate(kaws *ring, kaws_name name, const char *type, size_t len,
              kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    const kaws_bytes plain = { NULL, len };

    if (len < 1 || len > KAWS_GENERATE_MAX)
        return kaws__ring_refuse(&door, err, "a key to generate has 1 to 1024 "
                                 "bytes");
    kaws__ring_add(ring, name, type, plain, err);
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API kaws_status
kaws_store(kaws *ring, kaws_name name, const char *type, kaws_bytes plain,
           kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);

    if (plain.at == NULL || plain.len < 1 || plain.len > KAWS_PLAIN_MAX)
        return kaws__ring_refuse(&door, err, "a key to store has 1 to 4096 "
                                 "bytes");
    kaws__ring_add(ring, name, type, plain, err);
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API void
kaws_key_free(kaws *ring, kaws_key *key)
{
    int cancel;

    if (ring == NULL || key == NULL)
        return;
    KAWS__CANCEL_OFF(&cancel);
    kaws__mem_free(&ring->hooks, key->bytes, key->len);
    kaws_wipe(key, sizeof *key);
    KAWS__CANCEL_BACK(cancel);
}


/* Has KMS open the blob. */
static void
kaws__ring_open_blob(kaws *ring, kaws__op *op, kaws__copy *copy, kaws_key *key)
{
    const kaws_bytes expect = { NULL, key->len };
    size_t len = key->len;

    kaws__bind_key(ring->vault.file_hex, &copy->record, &copy->bound);
    (void)kaws__kms_open(op, &copy->bound.context, &copy->sealed, expect,
                         key->bytes, &len);
    if (op->err->status == KAWS_MISMATCH && op->err->http == 0)
        (void)kaws__err_set(op->err, KAWS_MISMATCH, "the key '%s' does not have"
                            " the length that its entry says",
                            KAWS__SHOW(copy->record.key_id));
}


/* Waits a little for the thread that asks KMS. 0: the time is up, or the call
 * was cancelled, and the error says so. */
static int
kaws__ring_wait(kaws *ring, kaws__op *op, const kaws__wanted *w)
{
    const kaws_hooks *hooks = &ring->hooks;
    int left = kaws__op_left_ms(op);

    if (kaws__thread_pause(hooks, &op->cancel, 0)) {
        (void)kaws__err_cancelled(op->err, "another thread");
        return 0;
    }
    if (left == 0) {
        (void)kaws__err_set(op->err, KAWS_NETWORK, "another thread has asked "
                            "AWS KMS for the same key, and got no answer in "
                            "%d ms", op->timeout_ms);
        if (hooks->patience_ms == NULL ||
            hooks->patience_ms(hooks->ctx, op->err) <= 0)
            return 0;
        kaws__err_clear(op->err);
        op->begun_ms = hooks->ticks_ms(hooks->ctx);
        left = op->timeout_ms;
    }
    kaws__shield_wait(&ring->vault.shield, w, op->cancel.asked != NULL &&
                      left > KAWS__CANCEL_MS ? KAWS__CANCEL_MS : left);
    return 1;
}


/* Gets a key from the shield; or from KMS, and then keeps it there. */
static void
kaws__ring_fetch(kaws *ring, kaws__copy *copy, kaws_key *key, kaws_error *err)
{
    const size_t at = offsetof(kaws__copy, generation);
    const uint8_t *end = copy->record.type.at + copy->record.type.len;
    kaws__shield *shield = &ring->vault.shield;
    kaws__wanted w = { .id = copy->id, .generation = copy->generation,
                       .about = { (const uint8_t *)copy + at, 0 },
                       .plain = key->bytes, .len = key->len };
    kaws__todo todo = KAWS__ALONE;
    kaws__op op;
    int gave_up;

    w.about.len = (size_t)(end - w.about.at);
    if (copy->id != 0 &&
        (todo = kaws__shield_ask(shield, &w, err)) == KAWS__HAVE)
        return;
    op = kaws__op_begin(&ring->kms, err);
    op.entry = 1;
    while (todo == KAWS__WAIT && kaws__ring_wait(ring, &op, &w))
        todo = kaws__shield_ask(shield, &w, err);
    if (todo == KAWS__LEAD || todo == KAWS__ALONE)
        kaws__ring_open_blob(ring, &op, copy, key);
    gave_up = err->status == KAWS_CANCELLED || err->status == KAWS_MEMORY ||
              (err->status != KAWS_OK &&
               (op.late || kaws__op_left_ms(&op) == 0));
    kaws__shield_end(shield, &w, todo == KAWS__LEAD, gave_up, err);
}


/* see Part II */
KAWS_API kaws_status
kaws_fetch(kaws *ring, kaws_name name, kaws_key *key, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    kaws__copy copy;

    if (key != NULL)
        memset(key, 0, sizeof *key);
    if (err->status != KAWS_OK || key == NULL)
        return kaws__ring_refuse(&door, err, "ring and key must not be NULL");
    if (kaws__bind_name(name, &copy.record, err) != KAWS_OK ||
        kaws__vault_look(&ring->vault, KAWS__TO_FETCH, &copy, err) != KAWS_OK)
        return kaws__ring_leave(&door, err->status);
    key->len = copy.record.plain_len;
    key->bytes = kaws__mem_new(&ring->hooks, key->len);
    (void)kaws__buf_copy_text(key->type, sizeof key->type, copy.record.type);
    if (key->bytes == NULL)
        (void)kaws__err_memory(err, "fetching a key");
    else
        kaws__ring_fetch(ring, &copy, key, err);
    if (err->status != KAWS_OK)
        kaws_key_free(ring, key);
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API kaws_status
kaws_remove(kaws *ring, kaws_name name, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    kaws__copy gone;

    if (err->status == KAWS_OK &&
        kaws__bind_name(name, &gone.record, err) == KAWS_OK &&
        kaws__vault_look(&ring->vault, KAWS__TO_REMOVE, &gone, err) == KAWS_OK)
        (void)kaws__vault_replace(&ring->vault, &gone.record, NULL, 0,
                                  UINT64_MAX, err);
    return kaws__ring_leave(&door, err->status);
}


/* ---- walking ----------------------------------------------------------- */

struct kaws_walk {
    kaws_hooks hooks;             /* the ring may be closed before the walk   */
    kaws__buf  list;              /* as vault_list writes it                  */
    size_t     at;                /* where the next key begins in it          */
};


/* see Part II */
KAWS_API kaws_status
kaws_walk_begin(kaws *ring, kaws_walk **walk, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    kaws_walk *w;

    if (walk != NULL)
        *walk = NULL;
    if (err->status != KAWS_OK || walk == NULL)
        return kaws__ring_refuse(&door, err, "ring and walk must not be NULL");
    w = kaws__mem_new(&ring->hooks, sizeof *w);
    if (w != NULL) {
        w->hooks = ring->hooks;
        kaws__buf_init(&w->list, &w->hooks);
        kaws__vault_list(&ring->vault, &w->list);
    }
    if (w == NULL || w->list.failed) {
        kaws_walk_end(w);
        w = NULL;
        (void)kaws__err_memory(err, "walking over the keys");
    }
    *walk = w;
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API int
kaws_walk_next(kaws_walk *walk, kaws_entry_info *info)
{
    const char *texts[4];
    size_t i;

    if (walk == NULL || info == NULL || walk->at >= walk->list.len)
        return 0;
    memcpy(info, walk->list.at + walk->at, sizeof *info);
    walk->at += sizeof *info;
    for (i = 0; i < 4; i++) {
        texts[i] = (const char *)walk->list.at + walk->at;
        walk->at += strlen(texts[i]) + 1;
    }
    info->name.key_id = texts[0];
    info->name.user_id = texts[1];
    info->type = texts[2];
    info->kms_key_arn = texts[3];
    return 1;
}


/* see Part II */
KAWS_API void
kaws_walk_end(kaws_walk *walk)
{
    kaws_hooks hooks;
    int cancel;

    if (walk == NULL)
        return;
    KAWS__CANCEL_OFF(&cancel);
    hooks = walk->hooks;
    kaws__buf_free(&walk->list);
    kaws__mem_free(&hooks, walk, sizeof *walk);
    KAWS__CANCEL_BACK(cancel);
}


/* ---- what protects the keys -------------------------------------------- */

/* Has KMS judge a choice. What KMS is asked depends on what differs from the
 * KMS key and the region that are used now. If KMS tells an account, that
 * counts only once the choice is taken. The caller holds SETTINGS. */
static kaws_status
kaws__ring_judge(kaws *ring, const kaws__choice *now, kaws__choice *choice,
                 kaws_error *err)
{
    kaws__op op = kaws__op_begin(&ring->kms, err);
    kaws__target there = choice->target;
    int another = strcmp(now->target.key_id, there.key_id) != 0;
    int moves = strcmp(now->region, choice->region) != 0;
    kaws_sealed sealed;
    kaws_status status = KAWS_OK;

    if (there.key_id[0] == '\0')
        return KAWS_OK;                   /* there is no KMS key to judge     */
    if (another)
        status = kaws__kms_may_use(&op, there.key_id);
    op.target = there;
    op.trial = choice->arn;
    op.at_home = 1;
    if (status == KAWS_OK)
        status = kaws__regions_suit(&ring->kms.regions, there.key_id, err);
    if (status == KAWS_OK &&
        (another || !moves || strcmp(now->target.region, there.region) != 0))
        status = kaws__kms_probe(&op, 1, &sealed);
    /* The KMS key is an ARN: requests for it still go to the ARN's region, so
     * the new region only has to answer. */
    if (status == KAWS_OK && moves &&
        strcmp(there.region, choice->region) != 0) {
        memcpy(op.target.region, choice->region, sizeof op.target.region);
        status = kaws__kms_ask_region(&op);
    }
    return status;
}


/* Takes the KMS key and the region together, or neither. NULL leaves one as it
 * is. A pair that passed kaws_try does not wait while KMS judges another. */
static kaws_status
kaws__ring_choose(kaws *ring, const char *kms_key_id, const char *region,
                  int take, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    kaws__choice now, choice;
    kaws_status status;

    if (ring == NULL || err->status != KAWS_OK)
        return kaws__ring_refuse(&door, err, "ring, kms_key_id or region is "
                                 "NULL");
    if (take && kms_key_id != NULL && *kms_key_id != '\0' && region != NULL &&
        kaws__trust_choose_tried(&ring->kms.trust, kms_key_id, region)) {
        kaws__shield_empty(&ring->vault.shield, 0);
        return kaws__ring_leave(&door, err->status);
    }
    if (kaws__thread_turn_wait(&ring->settings, INT_MAX, &ring->hooks) < 0) {
        (void)kaws__err_cancelled(err, "another thread");
        return kaws__ring_leave(&door, err->status);
    }
    do {                  /* again, if a tried pair was taken meanwhile       */
        (void)kaws__trust_choice(&ring->kms.trust, NULL, NULL, &now, NULL);
        status = kaws__trust_choice(&ring->kms.trust, kms_key_id, region,
                                    &choice, err);
        if (status == KAWS_OK && strcmp(choice.region, now.region) != 0 &&
            !kaws__arn_is_known(choice.region))
            kaws__err_log(&ring->hooks, KAWS__LOG_NEW_REGION, choice.region);
        if (status == KAWS_OK)
            kaws__hosts_doubt(&ring->kms.hosts, &ring->hooks, "kms",
                              kaws__trust_region(&choice));
        if (status == KAWS_OK &&
            (status = kaws__ring_judge(ring, &now, &choice, err)) != KAWS_OK)
            kaws__trust_untry(&ring->kms.trust, &choice);
    } while (status == KAWS_OK &&
             !kaws__trust_choose(&ring->kms.trust, &choice, take));
    kaws__thread_turn_end(&ring->settings, 1);
    if (take && status == KAWS_OK)
        kaws__shield_empty(&ring->vault.shield, 0);
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API kaws_status
kaws_use_kms_key(kaws *ring, const char *kms_key_id, kaws_error *err)
{
    return kaws__ring_choose(kms_key_id != NULL ? ring : NULL, kms_key_id, NULL,
                             1, err);
}


/* see Part II */
KAWS_API kaws_status
kaws_use_region(kaws *ring, const char *region, kaws_error *err)
{
    return kaws__ring_choose(region != NULL ? ring : NULL, NULL, region, 1,
                             err);
}


/* see Part II */
KAWS_API kaws_status
kaws_use(kaws *ring, const char *kms_key_id, const char *region,
         kaws_error *err)
{
    return kaws__ring_choose(ring, kms_key_id, region, 1, err);
}


/* see Part II */
KAWS_API kaws_status
kaws_try(kaws *ring, const char *kms_key_id, const char *region,
         kaws_error *err)
{
    return kaws__ring_choose(ring, kms_key_id, region, 0, err);
}


/* see Part II */
KAWS_API kaws_status
kaws_could_use(kaws *ring, const char *kms_key_id, const char *region,
               kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    kaws__choice choice;
    kaws__arn arn;

    if (err->status == KAWS_OK &&
        kaws__trust_choice(&ring->kms.trust, kms_key_id, region, &choice,
                           err) == KAWS_OK &&
        kaws__regions_suit(&ring->kms.regions, choice.target.key_id, err) ==
        KAWS_OK &&
        kms_key_id != NULL && kaws__arn_parse(kaws__buf_of(kms_key_id), &arn))
        (void)kaws__trust_check(&ring->kms.trust, kms_key_id, KAWS__TO_SEAL,
                                err);
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API void
kaws_use_timeouts(kaws *ring, int connect_timeout_ms, int timeout_ms)
{
    kaws__door door;

    if (kaws__ring_enter(&door, ring, NULL)->status == KAWS_OK)
        kaws__op_set_timeouts(&ring->kms, connect_timeout_ms, timeout_ms);
    KAWS__CANCEL_BACK(door.cancel);
}


/* see Part II */
KAWS_API void
kaws_use_cache(kaws *ring, int seconds)
{
    kaws__door door;

    if (kaws__ring_enter(&door, ring, NULL)->status == KAWS_OK)
        kaws__shield_set(&ring->vault.shield, seconds);
    KAWS__CANCEL_BACK(door.cancel);
}


/* see Part II */
KAWS_API kaws_status
kaws_reload_creds(kaws *ring, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    kaws__op op;

    if (err->status == KAWS_OK) {
        op = kaws__op_begin(&ring->kms, err);
        (void)kaws__op_creds(&op, KAWS__TO_RENEW, op.target.region);
        kaws__shield_part(&ring->vault.shield);
    }
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API kaws_status
kaws_whoami(kaws *ring, kaws_identity *out, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    kaws__op op;

    if (out != NULL)
        memset(out, 0, sizeof *out);
    if (err->status != KAWS_OK || out == NULL)
        return kaws__ring_refuse(&door, err, "ring and out must not be NULL");
    op = kaws__op_begin(&ring->kms, err);
    (void)kaws__op_creds(&op, KAWS__TO_TELL, op.target.region);
    (void)kaws__op_identity(&ring->kms, out);
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API kaws_status
kaws_rotate_kms_key(kaws *ring, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);

    if (err->status == KAWS_OK)
        (void)kaws__rewrap_rotate(&ring->rewrap, err);
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API kaws_status
kaws_rewrap_all(kaws *ring, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);

    if (err->status == KAWS_OK)
        (void)kaws__rewrap_all(&ring->rewrap, err);
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API kaws_status
kaws_refresh(kaws *ring, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);

    if (err->status == KAWS_OK)
        (void)kaws__vault_refresh(&ring->vault, KAWS__TO_REFRESH, err);
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API void
kaws_get_stats(kaws *ring, kaws_stats *stats)
{
    kaws__door door;

    if (stats == NULL)
        return;
    memset(stats, 0, sizeof *stats);
    if (kaws__ring_enter(&door, ring, NULL)->status == KAWS_OK) {
        kaws__op_stats(&ring->kms, stats);
        kaws__vault_stats(&ring->vault, stats);
        kaws__rewrap_stats(&ring->rewrap, stats);
    }
    KAWS__CANCEL_BACK(door.cancel);
}


/* ---- AWS KMS by itself ------------------------------------------------- */

/* Whether two buffers overlap. If an output overlapped another argument, its
 * content would be undefined. A length beyond the end of memory overlaps
 * everything. */
static int
kaws__ring_overlap(const void *one, size_t one_len, const void *two,
                   size_t two_len)
{
    uintptr_t a = (uintptr_t)one, b = (uintptr_t)two;

    if (a == 0 || b == 0 || one_len == 0 || two_len == 0)
        return 0;
    return one_len > UINTPTR_MAX - a || two_len > UINTPTR_MAX - b ||
           (a < b ? b - a < one_len : a - b < two_len);
}


/* Has KMS seal plain.len bytes: the caller's, or new ones, which are written to
 * `room` if it is not NULL. `most` is the most that KMS seals here, and tells
 * the two cases apart. */
static kaws_status
kaws__ring_seal(kaws *ring, const kaws_context *ctx, kaws_bytes plain,
                size_t most, uint8_t *room, kaws_sealed *out, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    kaws__op op;

    if (kaws__ring_overlap(plain.at, plain.len, out, sizeof *out))
        return kaws__ring_refuse(&door, err, "plain and out overlap");
    kaws_wipe(out, sizeof *out);
    kaws_wipe(room, plain.len);
    if (err->status != KAWS_OK || out == NULL)
        return kaws__ring_refuse(&door, err, "ring and out must not be NULL");
    if (plain.len < 1 || plain.len > most ||
        (plain.at == NULL && most == KAWS_PLAIN_MAX))
        return kaws__ring_refuse(&door, err, most == KAWS_PLAIN_MAX
                                 ? "AWS KMS seals 1 to 4096 bytes here"
                                 : "AWS KMS seals 1 to 1024 bytes here");
    op = kaws__op_begin(&ring->kms, err);
    if (most == KAWS_GENERATE_MAX)
        plain.at = NULL;
    if (kaws__bind_context_ok(ctx, err) != KAWS_OK ||
        kaws__kms_has_key(&op) != KAWS_OK ||
        kaws__kms_seal(&op, ctx, plain, room, out) != KAWS_OK)
        memset(out, 0, sizeof *out);
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API kaws_status
kaws_kms_generate_data_key(kaws *ring, const kaws_context *ctx, size_t len,
                           uint8_t *plain, kaws_sealed *out, kaws_error *err)
{
    const kaws_bytes view = { plain, len };

    return kaws__ring_seal(ring, ctx, view, KAWS_GENERATE_MAX, plain, out, err);
}


/* see Part II */
KAWS_API kaws_status
kaws_kms_encrypt(kaws *ring, const kaws_context *ctx, kaws_bytes plain,
                 kaws_sealed *out, kaws_error *err)
{
    return kaws__ring_seal(ring, ctx, plain, KAWS_PLAIN_MAX, NULL, out, err);
}


/* Checks the sealed value that a caller wants opened, and copies it. If it
 * names no KMS key, fills in the one that seals now. */
static kaws_status
kaws__ring_given(kaws__op *op, const kaws_context *ctx, const kaws_sealed *in,
                 kaws_sealed *out, kaws_error *err)
{
    kaws__arn arn;
    kaws_status status = kaws__bind_context_ok(ctx, err);

    if (status != KAWS_OK)
        return status;
    if (in->blob_len == 0 || in->blob_len > sizeof in->blob)
        return kaws__err_argument(err, "a blob has 1 to 6144 bytes");
    if (memchr(in->kms_key_arn, 0, sizeof in->kms_key_arn) == NULL)
        return kaws__err_argument(err, "kms_key_arn has no NUL at its end");
    if (in->kms_key_arn[0] == '\0') {
        status = kaws__kms_probe(op, 0, out);
        memcpy(out->blob, in->blob, in->blob_len);
        out->blob_len = in->blob_len;
        return status;
    }
    *out = *in;
    if (!kaws__arn_parse(kaws__buf_of(in->kms_key_arn), &arn) ||
        arn.resource.at[0] != 'k')
        return kaws__err_argument(err, "kms_key_arn is not the ARN of a KMS "
                                  "key");
    return KAWS_OK;
}


/* see Part II */
KAWS_API kaws_status
kaws_kms_decrypt(kaws *ring, const kaws_context *ctx, const kaws_sealed *in,
                 uint8_t *plain, size_t *plain_len, kaws_error *error)
{
    static const kaws_bytes any = { NULL, 0 };
    const size_t room = plain_len != NULL ? *plain_len : 0;
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    size_t len = room;
    kaws__op op;
    kaws_sealed given;

    if (kaws__ring_overlap(in, sizeof *in, plain, room) ||
        kaws__ring_overlap(in, sizeof *in, plain_len, sizeof len) ||
        kaws__ring_overlap(plain, room, plain_len, sizeof len))
        return kaws__ring_refuse(&door, err, "in, plain and plain_len "
                                 "overlap");
    if (plain_len != NULL)
        *plain_len = 0;
    kaws_wipe(plain, room);
    if (err->status != KAWS_OK || in == NULL || plain == NULL ||
        plain_len == NULL)
        return kaws__ring_refuse(&door, err, "ring, in, plain and plain_len "
                                 "must not be NULL");
    op = kaws__op_begin(&ring->kms, err);
    if (kaws__ring_given(&op, ctx, in, &given, err) == KAWS_OK &&
        kaws__kms_open(&op, ctx, &given, any, plain, &len) == KAWS_OK &&
        len > room)
        (void)kaws__err_set(err, KAWS_ARGUMENT, "bad argument: the "
                            "plaintext has %s byte%s, and there is room for "
                            "%s", KAWS__COUNT(len), KAWS__DECIMAL(room));
    if (err->status == KAWS_OK)
        *plain_len = len;
    return kaws__ring_leave(&door, err->status);
}


/* see Part II */
KAWS_API kaws_status
kaws_kms_reencrypt(kaws *ring, const kaws_context *ctx, const kaws_sealed *in,
                   kaws_sealed *out, kaws_error *error)
{
    kaws__door door;
    kaws_error *err = kaws__ring_enter(&door, ring, error);
    kaws__op op;
    kaws_sealed *work;                    /* given, fresh: much for a stack   */

    if (in != out) {
        if (kaws__ring_overlap(in, sizeof *in, out, sizeof *out))
            return kaws__ring_refuse(&door, err, "in and out overlap");
        kaws_wipe(out, sizeof *out);
    }
    if (err->status != KAWS_OK || in == NULL || out == NULL)
        return kaws__ring_refuse(&door, err, "ring, in and out must not be "
                                 "NULL");
    op = kaws__op_begin(&ring->kms, err);
    op.at_home = 1;                       /* KMS re-encrypts in one region    */
    work = kaws__mem_new(&ring->hooks, 2 * sizeof *work);
    if (work == NULL)
        (void)kaws__err_memory(err, "re-encrypting");
    else if (kaws__ring_given(&op, ctx, in, &work[0], err) == KAWS_OK &&
             kaws__kms_has_key(&op) == KAWS_OK &&
             kaws__kms_reencrypt(&op, ctx, &work[0], 0, &work[1]) == KAWS_OK)
        *out = work[1];
    kaws__mem_free(&ring->hooks, work, 2 * sizeof *work);
    return kaws__ring_leave(&door, err->status);
}

#endif /* KEYRING_AWS_IMPLEMENTATION */

/* ==========================================================================
 * Licence: BSD-2-Clause
 *
 * Copyright (c) 2026 the keyring_aws authors
 *
 * Redistribution and use in source and binary forms, with or without
 * modification, are permitted provided that the following conditions are met:
 *
 * 1. Redistributions of source code must retain the above copyright notice,
 *    this list of conditions and the following disclaimer.
 * 2. Redistributions in binary form must reproduce the above copyright notice,
 *    this list of conditions and the following disclaimer in the documentation
 *    and/or other materials provided with the distribution.
 *
 * THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS"
 * AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE
 * IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE
 * ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE
 * LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR
 * CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF
 * SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS
 * INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN
 * CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE)
 * ARISING IN ANY WAY OUT OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE
 * POSSIBILITY OF SUCH DAMAGE.
 * ========================================================================== */
